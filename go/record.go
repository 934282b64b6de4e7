package exeunt

import (
	"io"
	"sync/atomic"
	"unsafe"
)

// A slot holds one local's value. Its shape depends on the local's kind, see local.go.
type slot struct {
	pointer unsafe.Pointer
	word    uint64
}

const (
	inlineSlots = 8 // locals that need no allocation of their own in a record
	recordSize  = 256
)

// A record is what one goroutine that uses this package has: everything in it but owner is touched by that goroutine alone.
type record struct {
	owner      atomic.Uintptr // the goroutine's descriptor (g), 0 while the record is free
	id         int64          // 0 until asked for
	index      uint32         // in the table; 0 if the record is in the map instead
	closes     bool           // some value set here may have to be closed
	hasContext bool           // context is set
	pins       int16          // how many are using the record while code of the program's runs: it can't be given back meanwhile
	slots      [inlineSlots]slot
	more       []slot
	handlers   []func()
	context    any
	// leave ends the goroutine for good, in the way it was ending when the drain began; nil before that, and at the end of a callback from C.
	leave func()
	// What context and entered were when the drain began.
	contextAtEnd any
	hadContext   bool
	closing      bool                   // values are being closed further up on this stack
	running      int32                  // how many handlers and Closes of this drain, one within the other, are running
	_            [recordSize - 248]byte // to recordSize on 64-bit systems; see stack_linux.go
}

// slot is where the local with this index has its value, or nil if there is no room for it yet.
func (r *record) slot(index int) *slot {
	if index < inlineSlots {
		return &r.slots[index]
	}
	if index -= inlineSlots; index < len(r.more) {
		return &r.more[index]
	}
	return nil
}

// slotToSet makes room.
func (r *record) slotToSet(index int) *slot {
	if s := r.slot(index); s != nil {
		return s
	}
	more := make([]slot, index-inlineSlots+1)
	copy(more, r.more)
	r.more = more
	return r.slot(index)
}

// closers has, for each local, how to get what is to be closed out of its slot; nil where T can't be an io.Closer.
var closers atomic.Pointer[[]func(*slot) io.Closer]

// Unique numbers for ID.
var lastID atomic.Int64

func (r *record) identity() int64 {
	if r.id == 0 {
		r.id = lastID.Add(1)
	}
	return r.id
}

// localBase is what the assembly knows of a local.
type localBase struct {
	// offset is that of the value in a record, less offsetBias, so that its highest bit is set; recordSize + that of the pointer to the value, if
	// there is one; anything else for values that are in record.more. 0 is of one that was not made by NewLocal.
	offset   uintptr
	zero     unsafe.Pointer // a zero value, for goroutines that have set none
	index    int
	inSlot   uintptr // the same in a slot
	indirect bool    // there is a pointer to the value
}

const offsetBias = 4096
