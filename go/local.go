package exeunt

import (
	"io"
	"reflect"
	"sync"
	"unsafe"
)

// A Local is a variable of which every goroutine has its own copy. Create it once, by [NewLocal],
// and keep it in a package-level variable: it is never freed. The methods of a Local that was not
// made by NewLocal, such as a zero Local, panic.
//
// A goroutine's value is dropped when the goroutine ends, after the functions registered by
// [AtExit]. If the value implements [io.Closer], it is closed then, and by [Reset] and [Unload].
// The locals created last are closed first; a Close may use storage. T itself must have the Close
// method, not *T. If T is an interface type, the value in it counts. A nil pointer is not closed.
// Set and Del do not close the value that they replace.
//
// Pointers, maps, channels, functions, and types of up to eight bytes without pointers are stored
// without an allocation. Other types need one for the first Set on a goroutine. The first eight
// locals of a program are the fastest and need no other memory.
type Local[T any] struct {
	localBase
	kind   kind
	closes bool
}

// A kind says where in a slot a local keeps its value. The other half of the slot says whether it
// is set: it is not 0 or nil then. For an inherited value that another goroutine closes, it is
// shared or &sharedMark.
type kind uint8

const (
	invalid kind = iota // not made by NewLocal
	direct              // the value is one pointer, in slot.pointer; slot.word is set or shared
	scalar              // the value is in slot.word; slot.pointer is &setMark or &sharedMark
	boxed               // slot.pointer leads to the value; slot.word is set or shared
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

// at returns the address of the value in a slot.
func (l *Local[T]) at(s *slot) *T {
	switch l.kind {
	case scalar:
		return (*T)(unsafe.Pointer(&s.word))
	case direct:
		return (*T)(unsafe.Pointer(&s.pointer))
	}
	return (*T)(s.pointer)
}

// check panics if the local was not made by NewLocal; it has no place in records.
func (l *Local[T]) check() {
	if l.kind == invalid {
		panicInvalidLocal()
	}
}

var locals struct {
	sync.Mutex
	inheritable []func(parent *record) func(child *record)
}

// NewLocal makes a variable of which every goroutine has its own copy.
func NewLocal[T any]() *Local[T] {
	t := reflect.TypeOf((*T)(nil)).Elem()
	l := &Local[T]{kind: kindOf(t)}
	l.zero = unsafe.Pointer(new(T))
	l.indirect = l.kind == boxed
	// A concrete type says now whether its values can be closed; with an interface type it depends
	// on the value.
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
	// ^This is small enough to be inlined, so that a read is one call.
	return *(*T)(value(&l.localBase))
}

// Lookup returns the running goroutine's value and whether it has set one.
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

// setBoxed is separate from Set, so that only values of this kind escape to the heap.
//
//go:noinline
func (l *Local[T]) setBoxed(s *slot, v T) {
	if s.pointer == nil {
		s.pointer = unsafe.Pointer(new(T))
	}
	*(*T)(s.pointer) = v
	s.word = set
}

// Del removes the running goroutine's value without closing it.
func (l *Local[T]) Del() {
	l.check()
	if r := lookup(); r != nil {
		if s := r.slot(l.index); s != nil {
			*s = slot{}
		}
	}
}

// GetOrInit returns the running goroutine's value. If it has set none, GetOrInit calls init and
// sets the result.
func (l *Local[T]) GetOrInit(init func() T) T {
	v, ok := l.Lookup()
	if !ok {
		lookupOrArm() // panics before init has run
		v = init()
		l.Set(v)
	}
	return v
}
