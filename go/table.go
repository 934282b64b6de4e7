package exeunt

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Records are allocated in chunks. A record's index is the number of its chunk (upper bits) and its
// position in the chunk. The spare words of a goroutine's stack hold this index and never a
// pointer, because the garbage collector does not scan them.
//
//	spare words ──index──> chunks[index / 256] ──> chunk.records[index % 256]
//
// A chunk without a record in use is left to the garbage collector, so memory follows the number of
// goroutines that use the package at the same time. Beyond maxChunks (two million goroutines)
// records are kept in a map.
const (
	chunkRecords = 256
	maxChunks    = 1 << 13
)

type chunk struct {
	records [chunkRecords]record // first field: the assembly adds index % 256 * recordSize
	home    *shard
	number  uint32
	used    int
	first   int16 // head of the list of free records; -1 if there is none
	next    [chunkRecords]int16
	listed  bool                     // the chunk is in home.room
	slots   *[chunkRecords]slotState // in slot mode
}

// A slotState is what slot mode keeps beside a record.
type slotState struct {
	// sentinel is nil while the record is in use: then only the goroutine's stack leads to it.
	sentinel *sentinel
	number   uintptr // the goroutine's number in tracebacks
}

// A sentinel becomes unreachable when the goroutine has ended whose stack leads to it. It refers to
// the record while that is in use. It does not otherwise, so that a chunk and its sentinels, which
// have finalizers, form no circle.
type sentinel struct{ record *record }

func (r *record) slotState() *slotState {
	return &chunks[r.index/chunkRecords].Load().slots[r.index%chunkRecords]
}

// keepSentinel takes back the sentinel of a goroutine that needs it no longer.
func (r *record) keepSentinel(s *sentinel) {
	if s == nil {
		return
	}
	s.record = nil
	if r.index != 0 {
		r.slotState().sentinel = s
	}
}

var (
	// chunks is read by the assembly without a lock. An entry changes only while no goroutine owns
	// a record of its chunk, so a stale or random index leads to nil or to a record with another
	// owner. A chunk that is removed during such a read is still valid memory: the garbage
	// collector cannot sweep it before it has stopped the world, and it cannot stop a goroutine in
	// the assembly, which is not preemptible.
	chunks [maxChunks]atomic.Pointer[chunk]

	chunkNumbers struct {
		sync.Mutex
		free []uint32
		next uint32
	}
)

// Chunks are divided among shards, so that goroutines which begin or end on different processors
// rarely wait for the same lock. Reading or setting a value takes no lock.
type shard struct {
	sync.Mutex
	room []*chunk // chunks with a free record
	idle int      // how many of room have no record in use
	_    [64]byte
}

// The number of shards is a power of two, so that a mask selects one.
var shards = func() []shard {
	n := 1
	for n < runtime.GOMAXPROCS(0)*2 && n < 64 {
		n *= 2
	}
	return make([]shard, n)
}()

func allocate(g uintptr) *record {
	// Descriptors are some 400 bytes apart; the multiplication spreads the difference over the
	// upper half.
	home := &shards[uint64(g)*0x9e3779b97f4a7c15>>32&uint64(len(shards)-1)]
	home.Lock()
	defer home.Unlock()
	if len(home.room) == 0 {
		c := newChunk(home)
		if c == nil {
			return nil
		}
		home.room = append(home.room, c)
		home.idle++
	}
	c := home.room[len(home.room)-1]
	if c.used == 0 {
		home.idle--
	}
	c.used++
	place := c.first
	c.first = c.next[place]
	if c.first < 0 {
		home.room = home.room[:len(home.room)-1]
		c.listed = false
	}
	return &c.records[place]
}

func newChunk(home *shard) *chunk {
	chunkNumbers.Lock()
	defer chunkNumbers.Unlock()
	var number uint32
	if last := len(chunkNumbers.free) - 1; last >= 0 {
		number = chunkNumbers.free[last]
		chunkNumbers.free = chunkNumbers.free[:last]
	} else if chunkNumbers.next < maxChunks {
		number = chunkNumbers.next
		chunkNumbers.next++
	} else {
		return nil
	}
	c := &chunk{home: home, number: number, listed: true}
	for i := range c.next {
		c.next[i] = int16(i) + 1
		c.records[i].index = number*chunkRecords + uint32(i)
	}
	c.next[chunkRecords-1] = -1
	if inSlotMode() {
		c.slots = new([chunkRecords]slotState)
	}
	if number == 0 {
		c.first = 1 // index 0 means "none"
		c.used++    // so this chunk is never removed
	}
	chunks[number].Store(c)
	return c
}

// freeRecord takes back a record that its goroutine no longer uses. While Goroutines has the lock, a
// record that has an owner keeps it, and the owner cannot end (except in slot mode, see describe).
func freeRecord(r *record) {
	g := r.owner.Swap(0)
	if r.index == 0 {
		number := uintptr(0)
		if fallback.byNumber {
			number = descriptorWord(g, numberAt.Load())
		}
		fallback.remove(g, number, r)
		return
	}
	c := chunks[r.index/chunkRecords].Load()
	home := c.home
	home.Lock()
	defer home.Unlock()
	if r.id.Load() != 0 {
		r.id.Store(0) // not before: Goroutines could give another number to the ended goroutine here
	}
	place := int16(r.index % chunkRecords)
	c.next[place] = c.first
	c.first = place
	c.used--
	if !c.listed {
		c.listed = true
		home.room = append(home.room, c)
	}
	if c.used > 0 {
		return
	}
	if home.idle == 0 {
		home.idle = 1 // keep one chunk for the next goroutine
		return
	}
	for i, listed := range home.room {
		if listed == c {
			home.room = append(home.room[:i], home.room[i+1:]...)
			break
		}
	}
	chunks[c.number].Store(nil)
	chunkNumbers.Lock()
	chunkNumbers.free = append(chunkNumbers.free, c.number)
	chunkNumbers.Unlock()
}
