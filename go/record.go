package exeunt

import (
	"io"
	"sync/atomic"
	"time"
	"unsafe"
)

// An End says how a goroutine ends. [Ending] returns it.
type End uint8

const (
	// Running: the goroutine is not ending.
	Running End = iota
	// Returned: its entry function has returned. On a thread of C: its outermost callback has
	// returned to C.
	Returned
	// Exited: it has called [runtime.Goexit], as t.FailNow and t.SkipNow do. In [Slot] mode also:
	// it was that of an [iter.Pull], which has ended.
	Exited
	// ProcessExit: it has called [os.Exit], and is still within that call. Only in [Code] mode.
	ProcessExit
	// MainReturned: it is the main goroutine, and main.main has returned. Only in Code mode.
	MainReturned
	// Recovered: its entry function has returned because a panic has reached it, which a deferred
	// function of it has recovered. Only in Code mode; in Slot mode it is Returned.
	Recovered
	// Ended: it has ended, by return or by Goexit. Only in [Collected] mode, which does not know how.
	Ended
)

func (e End) String() string {
	switch e {
	case Running:
		return "running"
	case Returned:
		return "returned"
	case Exited:
		return "exited"
	case ProcessExit:
		return "process exit"
	case MainReturned:
		return "main returned"
	case Recovered:
		return "recovered"
	case Ended:
		return "ended"
	}
	return "unknown"
}

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
// except in Goroutines, which reads some of them.
type record struct {
	owner      atomic.Uintptr // the goroutine's descriptor (g); 0 while the record is free
	id         atomic.Int64   // see ID; 0 until the first call
	index      uint32         // position in the table; 0 if the record is in the map
	closes     bool           // some value set here may have to be closed
	closing    bool           // an outer frame of this stack is closing values
	hasContext bool           // context is set
	hadContext bool           // hasContext as it was when the drain began
	// pins counts the callers that use the record while they run code of the program. Such code may
	// call Unload; while pins is not 0, Unload keeps the record.
	pins    int32
	running int32 // nested handlers and Close calls of this drain
	slots   [inlineSlots]slot
	// more has the other slots. The slice never changes once it is here: Goroutines may be reading it.
	more     atomic.Pointer[[]slot]
	handlers []*handler // in the order of registration; stopped ones stay until there is no room
	context  any
	// leave ends the goroutine for good, in the way in which it was ending when the drain began. It
	// is nil before the drain, and at the end of a callback from C.
	leave        func()
	contextAtEnd any           // context as it was when the drain began
	aside        *aside        // what the innermost Captured.Run has replaced
	armedAt      time.Duration // since started
	ending       End
	// The size is recordSize on 64-bit systems; see read.go.
}

// An aside has what a Captured.Run has replaced in a record until it puts it back.
type aside struct {
	outer      *aside
	slots      []slotAside // of all inheritable locals
	context    any
	hasContext bool
	closes     bool
}

type slotAside struct {
	index int
	slot
}

// setAside empties the slots with these indices and the context.
func (r *record) setAside(indices []int) {
	a := &aside{r.aside, make([]slotAside, len(indices)), r.context, r.hasContext, r.closes}
	for i, index := range indices {
		a.slots[i].index = index
		if s := r.slot(index); s != nil {
			a.slots[i].slot, *s = *s, slot{}
		}
	}
	r.context, r.hasContext = nil, false
	r.aside = a
}

// putBack undoes the innermost setAside, and returns what is to be closed of the values in those
// slots, those of the local created last first.
func (r *record) putBack() (toClose []io.Closer) {
	a := r.aside
	r.aside = a.outer
	r.context, r.hasContext = a.context, a.hasContext
	r.closes = r.closes || a.closes
	all := closers.Load()
	for i := len(a.slots) - 1; i >= 0; i-- {
		saved := &a.slots[i]
		s := r.slot(saved.index)
		if s == nil {
			if saved.slot == (slot{}) {
				continue
			}
			s = r.slotToSet(saved.index)
		}
		if closer := (*all)[saved.index]; closer != nil {
			if c := closer(s); c != nil {
				toClose = append(toClose, c)
			}
		}
		*s = saved.slot
	}
	return toClose
}

// A handler is a function that AtExit has registered. The goroutine that runs it and one that stops
// it may be different ones. The first of them to call take gets the function.
type handler struct {
	taken atomic.Bool
	f     func()
}

// take returns the function, or nil if it was taken before.
func (h *handler) take() (f func()) {
	if h.taken.CompareAndSwap(false, true) {
		f, h.f = h.f, nil
	}
	return f
}

func (h *handler) stop() bool { return h.take() != nil }

// addHandler registers f. Handlers that were stopped make room for new ones: a goroutine that keeps
// registering and stopping uses a limited amount of memory. A call takes constant time on average,
// because at least a quarter of the room is free again after handlers are moved.
func (r *record) addHandler(f func()) *handler {
	if len(r.handlers) == cap(r.handlers) {
		r.removeStopped()
	}
	h := &handler{f: f}
	r.handlers = append(r.handlers, h)
	return h
}

// removeStopped removes the handlers that were stopped, and keeps the order of the others. If they
// fill more than three quarters of the room, the next append makes more.
func (r *record) removeStopped() {
	kept := r.handlers[:0]
	for _, h := range r.handlers {
		if !h.taken.Load() {
			kept = append(kept, h)
		}
	}
	clear(r.handlers[len(kept):])
	if len(kept) > cap(kept)*3/4 {
		kept = append(make([]*handler, 0, 2*cap(kept)), kept...)
	}
	r.handlers = kept
}

// dropHandlers removes the handlers, which cannot be stopped or run afterwards.
func (r *record) dropHandlers() {
	for _, h := range r.handlers {
		h.take()
	}
	clear(r.handlers)
	r.handlers = r.handlers[:0]
}

// slot returns the place of the local with this index, or nil if the record has no room for it yet.
func (r *record) slot(index int) *slot {
	if index < inlineSlots {
		return &r.slots[index]
	}
	if more, index := r.moreSlots(), index-inlineSlots; index < len(more) {
		return &more[index]
	}
	return nil
}

// slotToSet is slot, but makes room.
func (r *record) slotToSet(index int) *slot {
	if s := r.slot(index); s != nil {
		return s
	}
	more := make([]slot, index-inlineSlots+1)
	copy(more, r.moreSlots())
	r.more.Store(&more)
	return r.slot(index)
}

func (r *record) moreSlots() []slot {
	if more := r.more.Load(); more != nil {
		return *more
	}
	return nil
}

// dropSlots removes all values.
func (r *record) dropSlots() {
	r.slots = [inlineSlots]slot{}
	if r.more.Load() != nil {
		r.more.Store(nil)
	}
}

// closers has a function for each local that returns what is to be closed of a slot. It is nil
// where T cannot be an io.Closer.
var closers atomic.Pointer[[]func(*slot) io.Closer]

// lastID is the last number that ID has returned.
var lastID atomic.Int64

// identity is called by the goroutine itself, and by Goroutines on others.
func (r *record) identity() int64 {
	if id := r.id.Load(); id != 0 {
		return id
	}
	r.id.CompareAndSwap(0, lastID.Add(1))
	return r.id.Load()
}

// started is what armedAt counts from. To read the time since then is faster than to read the time.
var started = time.Now()

// localBase is the part of a Local that the assembly reads.
type localBase struct {
	// offset is the value's offset in a record minus offsetBias, so that its highest bit is set.
	// For a value that is reached by a pointer, it is recordSize plus the pointer's offset. It is
	// at least 2*recordSize for values in record.more, and 0 for a Local that was not made by
	// NewLocal.
	offset   uintptr
	zero     unsafe.Pointer // the zero value, for goroutines that have set none; nil if first is set
	index    int
	inSlot   uintptr // the value's offset in a slot
	indirect bool    // the slot has a pointer to the value
	// first makes and sets the running goroutine's initial value, and returns its address. It is
	// nil for a Local that was not made by NewLocalFunc.
	first func() unsafe.Pointer
}

const offsetBias = 4096
