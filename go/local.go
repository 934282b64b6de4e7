package exeunt

import (
	"io"
	"reflect"
	"sync"
	"unsafe"
)

// A Local is a variable of which every goroutine has its own. Make it once, by [NewLocal], and keep it in a package-level variable: it is
// never freed. One that was not made so, such as a zero Local, panics.
//
// A goroutine's value is dropped when the goroutine ends, after the functions registered by [AtExit] have run. If it implements
// [io.Closer], it is closed then, and by [Reset] and [Unload]; the locals created last are closed first, and storage may be used meanwhile. T itself
// must have Close, not *T; of an interface type, the value in it counts; a nil pointer is not closed.
// Set and Del don't close the value they replace.
//
// Pointers, maps, channels and functions, and types of up to eight bytes without pointers, are kept without an allocation; other types need
// one for the first Set in a goroutine. The first eight locals of a program are the fastest, and need no other memory.
type Local[T any] struct {
	localBase
	kind   kind
	closes bool
}

// How a local keeps its value in a slot. The other half of the slot says whether it is set: not 0 or nil if so, and for an inherited
// value that is another goroutine's to close, sharedMark.
type kind uint8

const (
	invalid kind = iota // not made by NewLocal
	direct              // the value is one pointer, in slot.pointer; slot.word is set or lent
	scalar              // the value is in slot.word; slot.pointer is &setMark or &sharedMark
	boxed               // slot.pointer leads to the value; slot.word is set or lent
)

const (
	set    = 1
	shared = 2
)

var setMark, sharedMark byte

func (l *Local[T]) isSet(s *slot) bool {
	if l.kind == scalar {
		return s.pointer != nil
	}
	return s.word != 0
}

func (l *Local[T]) markShared(s *slot) {
	if l.kind == scalar {
		s.pointer = unsafe.Pointer(&sharedMark)
	} else {
		s.word = shared
	}
}

func (l *Local[T]) isShared(s *slot) bool {
	if l.kind == scalar {
		return s.pointer == unsafe.Pointer(&sharedMark)
	}
	return s.word == shared
}

// at is where the value in a slot is.
func (l *Local[T]) at(s *slot) *T {
	switch l.kind {
	case scalar:
		return (*T)(unsafe.Pointer(&s.word))
	case direct:
		return (*T)(unsafe.Pointer(&s.pointer))
	}
	return (*T)(s.pointer)
}

// check panics if the local was not made by NewLocal: it has no place in records.
func (l *Local[T]) check() {
	if l.kind == invalid {
		panicInvalidLocal()
	}
}

var locals struct {
	sync.Mutex
	inheritable []func(parent *record) func(child *record)
}

// NewLocal makes a variable.
func NewLocal[T any]() *Local[T] {
	t := reflect.TypeOf((*T)(nil)).Elem()
	l := &Local[T]{kind: kindOf(t)}
	l.zero = unsafe.Pointer(new(T))
	l.indirect = l.kind == boxed
	// A concrete type tells now whether its values can be closed, an interface type only value by value.
	closer := reflect.TypeOf((*io.Closer)(nil)).Elem()
	l.closes = t.Kind() == reflect.Interface || t.Implements(closer)

	var toClose func(*slot) io.Closer
	if l.closes {
		toClose = func(s *slot) io.Closer {
			if !l.isSet(s) || l.isShared(s) {
				return nil
			}
			c, _ := any(*l.at(s)).(io.Closer)
			if v := reflect.ValueOf(c); c == nil || v.Kind() == reflect.Pointer && v.IsNil() {
				return nil
			}
			return c
		}
	}
	locals.Lock()
	defer locals.Unlock()
	var all []func(*slot) io.Closer
	if old := closers.Load(); old != nil {
		all = *old
	}
	l.index = len(all)
	if l.kind == scalar {
		l.inSlot = unsafe.Offsetof(slot{}.word)
	}
	l.offset = 2 * recordSize
	if l.index < inlineSlots {
		l.offset = unsafe.Offsetof(record{}.slots) + uintptr(l.index)*unsafe.Sizeof(slot{}) + l.inSlot
		if l.indirect {
			l.offset += recordSize
		} else {
			l.offset -= offsetBias
		}
	}
	all = append(all[:len(all):len(all)], toClose)
	closers.Store(&all)
	return l
}

func kindOf(t reflect.Type) kind {
	switch t.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Chan, reflect.Func, reflect.UnsafePointer:
		return direct
	}
	if t.Size() <= 8 && !hasPointers(t) {
		return scalar
	}
	return boxed
}

func hasPointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return t.Len() > 0 && hasPointers(t.Elem())
	case reflect.Struct:
		for i := 0; i < t.NumField(); i++ {
			if hasPointers(t.Field(i).Type) {
				return true
			}
		}
		return false
	}
	return t.Kind() > reflect.Complex128
}

// Get returns the running goroutine's value, or T's zero value if it has set none.
func (l *Local[T]) Get() T {
	// Small enough to be inlined, so that a read is one call.
	return *(*T)(value(&l.localBase))
}

// Lookup is Get, and tells whether a value is set.
func (l *Local[T]) Lookup() (v T, ok bool) {
	l.check()
	if r := lookup(); r != nil {
		if s := r.slot(l.index); s != nil && l.isSet(s) {
			return *l.at(s), true
		}
	}
	return v, false
}

// Set sets the running goroutine's value.
func (l *Local[T]) Set(v T) {
	l.check()
	r := current()
	if r == nil {
		r = lookupOrArm()
	}
	var s *slot
	if l.index < inlineSlots {
		s = &r.slots[l.index]
	} else {
		s = r.slotToSet(l.index)
	}
	switch l.kind {
	case scalar:
		*(*T)(unsafe.Pointer(&s.word)) = v
		if s.pointer != unsafe.Pointer(&setMark) {
			s.pointer = unsafe.Pointer(&setMark)
		}
	case direct:
		*(*T)(unsafe.Pointer(&s.pointer)) = v
		s.word = set
	default:
		l.setBoxed(s, v)
	}
	if l.closes {
		r.closes = true
	}
}

// setBoxed is apart, so that only values which need it are moved to the heap.
//
//go:noinline
func (l *Local[T]) setBoxed(s *slot, v T) {
	if s.pointer == nil {
		s.pointer = unsafe.Pointer(new(T))
	}
	*(*T)(s.pointer) = v
	s.word = set
}

// Del removes the running goroutine's value, without closing it.
func (l *Local[T]) Del() {
	l.check()
	if r := lookup(); r != nil {
		if s := r.slot(l.index); s != nil {
			*s = slot{}
		}
	}
}

// GetOrInit returns the running goroutine's value; if it has none, it is set to what init returns.
func (l *Local[T]) GetOrInit(init func() T) T {
	v, ok := l.Lookup()
	if !ok {
		lookupOrArm() // panics before init has made anything
		v = init()
		l.Set(v)
	}
	return v
}
