package exeunt

import (
	"sync"
	"sync/atomic"
)

// fallback finds records by a table from the goroutine's descriptor. It is used in collected mode, where
// the spare words could not be verified (useMap), and for goroutines that find the other table full.
//
// A search takes no lock. It follows a chain whose parts never change, but for the pointers to the next
// part, and a part that is removed still leads to those that were behind it. Each goroutine adds its
// own record, so whichever chain it finds afterwards has that.
var fallback recordMap

type recordMap struct {
	// byNumber is set in collected mode, before any goroutine has a record. Then a descriptor may be that of
	// many earlier goroutines, whose records wait for a collection. Their numbers put them into
	// different chains.
	byNumber bool
	parts    [64]struct {
		sync.Mutex // for all but searches
		chains     atomic.Pointer[[]chain]
		used       int
		_          [32]byte
	}
}

// A chain begins with what was added last.
type chain struct{ atomic.Pointer[mapped] }

type mapped struct {
	next   chain
	g      uintptr
	number uintptr // as in slotState
	record *record
	seen   bool // in collected mode: it was seen to have ended; only under the lock
}

// useMap says that the spare words cannot be relied on. Install sets it, before any goroutine has a
// record.
var useMap bool

// forceMap makes a test use the map although the spare words could be used.
var forceMap bool

// place returns the part and a number that selects a chain of it. Descriptors are some 400 bytes
// apart; the multiplication spreads the difference.
func (m *recordMap) place(g, number uintptr) (part, position uint32) {
	key := uint32(g >> 5)
	if m.byNumber {
		key += uint32(number) * 0x85ebca6b
	}
	h := key * 0x9e3779b1
	return h >> 26, h >> 8
}

func (m *recordMap) add(g uintptr, r *record, number uintptr) {
	at, position := m.place(g, number)
	part := &m.parts[at]
	part.Lock()
	chains := part.chains.Load()
	if chains == nil || part.used >= 2*len(*chains) {
		chains = m.roomier(chains)
		part.chains.Store(chains)
	}
	part.used++
	head := &(*chains)[int(position)&(len(*chains)-1)]
	added := &mapped{g: g, number: number, record: r}
	added.next.Store(head.Load())
	head.Store(added)
	part.Unlock()
	atomic.AddUint32(&common.mapped, 1)
}

// roomier returns a copy with four times as many chains. Searches may be following the old ones.
func (m *recordMap) roomier(old *[]chain) *[]chain {
	if old == nil {
		chains := make([]chain, 4)
		return &chains
	}
	chains := make([]chain, 4*len(*old))
	for i := range *old {
		var all []*mapped
		for found := (*old)[i].Load(); found != nil; found = found.next.Load() {
			all = append(all, found)
		}
		for i := len(all) - 1; i >= 0; i-- { // so that the order stays
			found := all[i]
			_, position := m.place(found.g, found.number)
			head := &chains[int(position)&(len(chains)-1)]
			moved := &mapped{g: found.g, number: found.number, record: found.record, seen: found.seen}
			moved.next.Store(head.Load())
			head.Store(moved)
		}
	}
	return &chains
}

// remove is called once for each add, or take has removed it. The number matters only with byNumber.
func (m *recordMap) remove(g, number uintptr, r *record) {
	at, position := m.place(g, number)
	part := &m.parts[at]
	part.Lock()
	if chains := part.chains.Load(); chains != nil {
		before := &(*chains)[int(position)&(len(*chains)-1)]
		for found := before.Load(); found != nil; found = before.Load() {
			if found.record == r {
				before.Store(found.next.Load())
				part.used--
				break
			}
			before = &found.next
		}
	}
	part.Unlock()
	atomic.AddUint32(&common.mapped, ^uint32(0))
}

// get returns the newest record with this descriptor and number; 0 is any number. There may be others of
// earlier goroutines, whose ends have not been noticed yet.
func (m *recordMap) get(g, number uintptr) *record {
	at, position := m.place(g, number)
	if chains := m.parts[at].chains.Load(); chains != nil {
		for found := (*chains)[int(position)&(len(*chains)-1)].Load(); found != nil; found = found.next.Load() {
			if found.g == g && (number == 0 || found.number == number) {
				return found.record
			}
		}
	}
	return nil
}

// each calls note for all. Until that has returned none of these can be removed.
func (m *recordMap) each(part int, note func(*mapped)) {
	m.parts[part].Lock()
	defer m.parts[part].Unlock()
	if chains := m.parts[part].chains.Load(); chains != nil {
		for i := range *chains {
			for found := (*chains)[i].Load(); found != nil; found = found.next.Load() {
				note(found)
			}
		}
	}
}

// take removes all that are chosen, and returns their records. They still count as mapped.
func (m *recordMap) take(part int, choose func(*mapped) bool) (taken []*record) {
	m.parts[part].Lock()
	defer m.parts[part].Unlock()
	if chains := m.parts[part].chains.Load(); chains != nil {
		for i := range *chains {
			before := &(*chains)[i]
			for found := before.Load(); found != nil; found = before.Load() {
				if choose(found) {
					before.Store(found.next.Load())
					m.parts[part].used--
					taken = append(taken, found.record)
				} else {
					before = &found.next
				}
			}
		}
	}
	return taken
}
