package exeunt

import (
	"io"
	"reflect"
	"sync"
	"unsafe"
)

// A Local is a variable of which every goroutine has its own. Make it once, by [NewLocal], and keep it in a package-level variable: it is
// never freed.
//
// A goroutine's value is dropped when the goroutine ends, after the functions registered by [AtExit] have run. If it implements
// [io.Closer], it is closed then, and by [Reset] and [Unload]; the locals created last are closed first, and storage may be used meanwhile.
// Set and Del don't close the value they replace.
//
// Pointers, maps, channels and functions, and types of up to eight bytes without pointers, are kept without an allocation; other types need
// one for the first Set in a goroutine. The first eight locals of a program are the fastest, and need no other memory.
type Local[T any] struct {
	index  int
	kind   kind
	closes bool
}

// How a local keeps its value in a slot.
type kind uint8

const (
	direct kind = iota // the value is one pointer, in slot.pointer; &nilMark there is a nil that was set
	scalar             // the value is in slot.word; slot.pointer is &setMark
	boxed              // slot.pointer leads to the value
)

var nilMark, setMark, lentMark byte

// A lent value is another goroutine's, inherited as it is: not for this one to close. A scalar says so by its pointer, the others by their word.
func (l *Local[T]) lend(s *slot) {
	if l.kind == scalar {
		s.pointer = unsafe.Pointer(&lentMark)
	} else {
		s.word = 1
	}
}

func (l *Local[T]) lent(s *slot) bool {
	if l.kind == scalar {
		return s.pointer == unsafe.Pointer(&lentMark)
	}
	return s.word != 0
}

var locals struct {
	sync.Mutex
	inherited []func(parent *record) func(child *record)
}

// NewLocal makes a variable.
func NewLocal[T any]() *Local[T] {
	t := reflect.TypeOf((*T)(nil)).Elem()
	l := &Local[T]{kind: kindOf(t)}
	// A concrete type tells now whether its values can be closed, an interface type only value by value.
	closer := reflect.TypeOf((*io.Closer)(nil)).Elem()
	l.closes = t.Kind() == reflect.Interface || t.Implements(closer)

	var toClose func(*slot) io.Closer
	if l.closes {
		toClose = func(s *slot) io.Closer {
			if l.lent(s) {
				return nil
			}
			c, _ := any(load[T](l.kind, s)).(io.Closer)
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

// load is small enough to be inlined, so that a read is one call, that of current.
func load[T any](k kind, s *slot) (v T) {
	if k == scalar {
		return *(*T)(unsafe.Pointer(&s.word)) // zero where nothing is set
	}
	p := s.pointer
	if k == direct {
		if p != unsafe.Pointer(&nilMark) {
			return *(*T)(unsafe.Pointer(&p))
		}
	} else if p != nil {
		return *(*T)(p)
	}
	return v
}

// Get returns the running goroutine's value, or T's zero value if it has set none.
func (l *Local[T]) Get() (v T) {
	if r := current(); r != nil && l.index < inlineSlots {
		return load[T](l.kind, &r.slots[l.index])
	}
	v, _ = l.Lookup()
	return v
}

// Lookup is Get, and tells whether a value is set.
func (l *Local[T]) Lookup() (v T, ok bool) {
	if r := lookup(); r != nil {
		if s := r.slot(l.index); s != nil && s.pointer != nil {
			return load[T](l.kind, s), true
		}
	}
	return v, false
}

// Set sets the running goroutine's value.
func (l *Local[T]) Set(v T) {
	r := current()
	if r == nil {
		r = own()
	}
	var s *slot
	if l.index < inlineSlots {
		s = &r.slots[l.index]
	} else {
		s = r.slotToSet(l.index)
	}
	if l.closes {
		r.closes = true
		s.word = 0 // not lent
	}
	switch l.kind {
	case scalar:
		*(*T)(unsafe.Pointer(&s.word)) = v
		if s.pointer != unsafe.Pointer(&setMark) {
			s.pointer = unsafe.Pointer(&setMark)
		}
	case direct:
		s.pointer = *(*unsafe.Pointer)(unsafe.Pointer(&v))
		if s.pointer == nil {
			s.pointer = unsafe.Pointer(&nilMark)
		}
	default:
		l.setBoxed(s, v)
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
}

// Del removes the running goroutine's value, without closing it.
func (l *Local[T]) Del() {
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
		v = init()
		l.Set(v)
	}
	return v
}
