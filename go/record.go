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
	owner    atomic.Uintptr // the goroutine's descriptor (g), 0 while the record is free
	id       int64          // 0 until asked for
	index    uint32         // in the table; 0 if the record is in the map instead
	closes   bool           // some value set here may have to be closed
	entered  bool           // context is set
	busy     int16          // how many are using the record while code of the program's runs: it can't be given back meanwhile
	slots    [inlineSlots]slot
	more     []slot
	handlers []func()
	context  any
	// then ends the goroutine for good, in the way it was ending when the drain began; nil before that, and at the end of a callback from C.
	then func()
	// What context and entered were when the drain began.
	outer        any
	outerEntered bool
	closing      bool                   // values are being closed further up on this stack
	runs         int32                  // how many handlers and Closes of this drain, one within the other, are running
	_            [recordSize - 248]byte // to recordSize on 64-bit systems; see stack_linux.go
}

// end drains a goroutine that is about to end, and gives its record back.
func (r *record) end(then func()) {
	r.then = then
	r.outer, r.outerEntered = r.context, r.entered
	r.busy++
	r.runs = 0 // what this end has come out of does not go on
	r.drain()
	r.release()
}

// Values whose Close sets values again, and handlers that such a Close registers, are taken care of in further rounds.
const maxRounds = 100

func (r *record) drain() {
	for round := 0; round < maxRounds; round++ {
		for len(r.handlers) > 0 {
			r.runTop()
		}
		r.closeValues()
		if len(r.handlers) == 0 && !r.closes {
			return
		}
	}
	r.giveUp()
}

// giveUp drops what was still being added.
func (r *record) giveUp() {
	report("exeunt: values and handlers were still being added after 100 rounds of closing and running them; what is left is dropped", nil)
	r.slots = [inlineSlots]slot{}
	r.more = nil
	r.closes = false
}

// runTop runs the handler registered last.
func (r *record) runTop() {
	last := len(r.handlers) - 1
	handler := r.handlers[last]
	r.handlers[last] = nil
	r.handlers = r.handlers[:last]
	r.run(handler)
}

// run calls a handler or a Close, and survives whatever it does.
func (r *record) run(f func()) {
	returned := false
	r.runs++
	defer func() {
		r.runs--
		if returned {
			return
		}
		if value := recover(); value != nil {
			reportPanic(value)
			return
		}
		// f called runtime.Goexit. What closeValues has not come to yet is still to be closed.
		r.closes, r.closing = closers.Load() != nil, false
		// If the goroutine is ending, it ends here, after what is left has run: going on with Goexit would lose the
		// other ends (of main, of the process, of a coroutine), and walk a second time through frames that an earlier Goexit
		// has left behind, which Go 1.27 takes badly ("unknown pc 0x0", nextFrame in src/runtime/panic.go). A Close that a
		// handler has closed by Reset ends the handler too, whose deferred functions run before that.
		if then := r.then; then != nil && r.runs == 0 {
			r.context, r.entered = r.outer, r.outerEntered // the functions that With has called are left as well
			r.drain()
			r.release()
			then()
		}
	}()
	f()
	returned = true
}

// closeValues closes what can be closed, the local created last first, and forgets all values. A Close may use storage: it finds the values
// that are not closed yet, which it can also Reset, and what it sets is closed by another round.
func (r *record) closeValues() {
	if r.closes || r.closing {
		within := r.closing
		r.closes, r.closing = false, true
		all := *closers.Load()
		for i := inlineSlots + len(r.more) - 1; i >= 0; i-- {
			s := r.slot(i)
			if s == nil || *s == (slot{}) || i >= len(all) || all[i] == nil {
				continue
			}
			c := all[i](s)
			*s = slot{}
			if c != nil {
				r.run(func() { closeAndReport(c) })
			}
		}
		r.closing = within
		if r.closes {
			return
		}
	}
	r.slots = [inlineSlots]slot{}
	r.more = nil
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

// reset closes and forgets the values.
func (r *record) reset() {
	r.busy++
	defer func() { r.busy-- }() // also if a Close calls runtime.Goexit
	for round := 0; round < maxRounds; round++ {
		r.closeValues()
		if !r.closes {
			return
		}
	}
	r.giveUp()
}

// unload forgets everything without running the handlers. In a handler or a Close the record stays, as if it were a new one; so it does if
// a Close has registered handlers.
func (r *record) unload() {
	clear(r.handlers)
	r.handlers = r.handlers[:0]
	r.reset()
	r.id, r.context, r.entered = 0, nil, false
	if r.busy == 0 && len(r.handlers) == 0 {
		r.release()
	}
}

// Handlers kept room for in a free record.
const maxKeptHandlers = 8

// release gives the record back: from here on the goroutine has none.
func (r *record) release() {
	if !useMap {
		unmark()
	}
	clear(r.handlers)
	if cap(r.handlers) > maxKeptHandlers {
		r.handlers = nil
	}
	r.handlers = r.handlers[:0]
	r.slots = [inlineSlots]slot{}
	r.more = nil
	r.id, r.closes, r.entered, r.busy = 0, false, false, 0
	r.context, r.outer, r.outerEntered, r.then = nil, nil, false, nil
	r.closing, r.runs = false, 0
	freeRecord(r)
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
