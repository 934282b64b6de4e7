package exeunt

import (
	"sync"
	"sync/atomic"
)

// fallback finds records by a map from the goroutine's descriptor. It is used where the spare words
// could not be verified (useMap), and for goroutines that find the table full.
var fallback recordMap

type recordMap struct {
	parts [64]struct {
		sync.RWMutex
		records map[uintptr]mapped
		_       [32]byte
	}
}

type mapped struct {
	record *record
	number uintptr // as in slotState
}

// useMap says that the spare words cannot be relied on. Install sets it, before any goroutine has a
// record.
var useMap bool

// forceMap makes a test use the map although the spare words could be used.
var forceMap bool

func (m *recordMap) add(g uintptr, r *record, number uintptr) {
	part := &m.parts[g>>6%64]
	part.Lock()
	if part.records == nil {
		part.records = map[uintptr]mapped{}
	}
	part.records[g] = mapped{r, number}
	part.Unlock()
	atomic.AddUint32(&common.mapped, 1)
}

// remove is called once for each add. In slot mode a record of an earlier goroutine with this
// descriptor may have been replaced.
func (m *recordMap) remove(g uintptr, r *record) {
	part := &m.parts[g>>6%64]
	part.Lock()
	if part.records[g].record == r {
		delete(part.records, g)
	}
	part.Unlock()
	atomic.AddUint32(&common.mapped, ^uint32(0))
}

func (m *recordMap) get(g uintptr) *record {
	part := &m.parts[g>>6%64]
	part.RLock()
	r := part.records[g].record
	part.RUnlock()
	return r
}
