package exeunt

import (
	"io"
	"sync/atomic"
	"unsafe"
)

// A slot holds one local's value. Its layout depends on the local's kind; see local.go.
type slot struct {
	pointer unsafe.Pointer
	word    uint64
}

const (
	inlineSlots = 8 // locals whose values fit into a record without an allocation
	recordSize  = 256
)

// A record holds what one goroutine uses of this package. Only that goroutine accesses the fields,
// except owner.
type record struct {
	owner      atomic.Uintptr // the goroutine's descriptor (g); 0 while the record is free
	id         int64          // see ID; 0 until the first call
	index      uint32         // position in the table; 0 if the record is in the map
	closes     bool           // some value set here may have to be closed
	hasContext bool           // context is set
	// pins counts the callers that use the record while they run code of the program. Such code may
	// call Unload; while pins is not 0, Unload keeps the record.
	pins     int16
	slots    [inlineSlots]slot
	more     []slot
	handlers []func()
	context  any
	// leave ends the goroutine for good, in the way in which it was ending when the drain began. It
	// is nil before the drain, and at the end of a callback from C.
	leave func()
	// contextAtEnd and hadContext are context and hasContext as they were when the drain began.
	contextAtEnd any
	hadContext   bool
	closing      bool                   // an outer frame of this stack is closing values
	running      int32                  // nested handlers and Close calls of this drain
	_            [recordSize - 248]byte // to recordSize on 64-bit systems, see read_linux.go
}

// slot returns the place of the local with this index, or nil if the record has no room for it yet.
func (r *record) slot(index int) *slot {
	if index < inlineSlots {
		return &r.slots[index]
	}
	if index -= inlineSlots; index < len(r.more) {
		return &r.more[index]
	}
	return nil
}

// slotToSet is slot, but makes room.
func (r *record) slotToSet(index int) *slot {
	if s := r.slot(index); s != nil {
		return s
	}
	more := make([]slot, index-inlineSlots+1)
	copy(more, r.more)
	r.more = more
	return r.slot(index)
}

// closers has a function for each local that returns what is to be closed of a slot. It is nil
// where T cannot be an io.Closer.
var closers atomic.Pointer[[]func(*slot) io.Closer]

// lastID is the last number that ID has returned.
var lastID atomic.Int64

func (r *record) identity() int64 {
	if r.id == 0 {
		r.id = lastID.Add(1)
	}
	return r.id
}

// localBase is the part of a Local that the assembly reads.
type localBase struct {
	// offset is the value's offset in a record minus offsetBias, so that its highest bit is set.
	// For a value that is reached by a pointer, it is recordSize plus the pointer's offset. It is
	// at least 2*recordSize for values in record.more, and 0 for a Local that was not made by
	// NewLocal.
	offset   uintptr
	zero     unsafe.Pointer // the zero value, for goroutines that have set none
	index    int
	inSlot   uintptr // the value's offset in a slot
	indirect bool    // the slot has a pointer to the value
}

const offsetBias = 4096
