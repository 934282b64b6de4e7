package exeunt

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Records live in chunks; a record's index names its chunk (upper bits) and its place in it. The index, never a pointer, is
// what the spare words of a goroutine's stack hold: the garbage collector doesn't look there.
//
//	spare words ──index──> chunks[index / 256] ──> chunk.records[index % 256]
//
// A chunk in which no record is in use is given back to the garbage collector, so memory follows the number of goroutines
// that use the package at the moment. Beyond maxChunks (two million goroutines at once) records go into a map.
const (
	chunkRecords = 256
	maxChunks    = 1 << 13
)

type chunk struct {
	records [chunkRecords]record // first: the assembly adds index % 256 * recordSize
	home    *shard
	number  uint32
	used    int
	first   int16 // of the free records, -1 if there is none
	next    [chunkRecords]int16
	listed  bool // in home's list of chunks with room
}

var (
	// chunks is read by the assembly without a lock. An entry changes only when no goroutine owns a record in its chunk; who follows a
	// stale index, or rubbish, finds nil, or a record of another owner. A chunk that is given back meanwhile is still there: it cannot be
	// swept before the world has been stopped, which waits for the assembly, as that cannot be preempted.
	chunks [maxChunks]atomic.Pointer[chunk]

	chunkNumbers struct {
		sync.Mutex
		free []uint32
		next uint32
	}
)

// Chunks are divided among shards, so that goroutines beginning or ending on different processors rarely meet at a lock. Nobody
// takes one to read or set a value.
type shard struct {
	sync.Mutex
	room []*chunk // chunks with a free record
	idle int      // of these, how many have no record in use
	_    [64]byte
}

// Powers of two, so that a mask picks one.
var shards = func() []shard {
	n := 1
	for n < runtime.GOMAXPROCS(0)*2 && n < 64 {
		n *= 2
	}
	return make([]shard, n)
}()

func allocate(g uintptr) *record {
	// Descriptors are some 400 bytes apart; the multiplication spreads that over the upper half.
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
	if number == 0 {
		c.first = 1 // index 0 means "none"
		c.used++    // and this chunk stays
	}
	chunks[number].Store(c)
	return c
}

// freeRecord takes back a record whose goroutine has forgotten it.
func freeRecord(r *record) {
	g := r.owner.Swap(0)
	if r.index == 0 {
		fallback.remove(g)
		return
	}
	c := chunks[r.index/chunkRecords].Load()
	home := c.home
	home.Lock()
	defer home.Unlock()
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
		home.idle = 1 // one is kept for the next goroutine
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
