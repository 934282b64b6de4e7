package exeunt

import (
	"io"
	"reflect"
	"sync"
	"unsafe"
)

// A Local is a variable of which every goroutine has its own copy. Create it once, by [NewLocal] or
// [NewLocalFunc], and keep it in a package-level variable: it is never freed. The methods of a
// Local that was not made by these or by [NewInheritable], such as a zero Local, panic.
//
// A goroutine's value is dropped when the goroutine ends, after the functions registered by
// [AtExit], and late or not at all where these are called late or not at all in [Slot] mode. If the
// value implements [io.Closer], it is closed whenever it is dropped: at the goroutine's end, by
// [Reset] and [Unload], by Del, and by Set, unless it is set again. Swap returns it instead. At the
// end the locals created last are closed first. A Close may use storage. T itself must have the
// Close method, not *T. If T is an interface type, the value in it counts. A nil pointer is not
// closed, nor is a value that belongs to another goroutine (see [NewInheritable]).
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
	inheritable []inheritable // in the order of creation
	named       []named       // in the order of their first names
}

// named is a local that has a name.
type named struct {
	name  string
	index int
	kind  kind
}

// inheritable is how a local passes on its value: inherit returns a function that sets the value in
// another goroutine's record, or nil if parent has none.
type inheritable struct {
	index   int
	inherit func(parent *record) func(*record)
}

// NewLocal makes a variable of which every goroutine has its own copy, at first T's zero value.
func NewLocal[T any]() *Local[T] { return newLocal[T](nil) }

// NewLocalFunc makes a variable of which every goroutine has its own copy, with an initial value.
// The goroutine's first Get calls initial, on that goroutine, and sets the result as [Local.Set]
// does. After Del, Reset or Unload the next Get does it again. Lookup, Set, Swap and GetOrInit do
// not call initial.
//
// If initial panics or calls [runtime.Goexit], nothing is set, and the next Get calls it again.
// initial may use storage, but a Get of the same local in it calls initial without end. Several
// goroutines may run it at the same time. Get panics with the error of [Install], before it calls
// initial, where goroutine exits cannot be redirected.
//
// A value needs one allocation on each goroutine, also if T is a pointer or a small type, and Get
// takes as long as that of a string.
func NewLocalFunc[T any](initial func() T) *Local[T] {
	if initial == nil {
		panic("exeunt: NewLocalFunc(nil)")
	}
	return newLocal(initial)
}

func newLocal[T any](initial func() T) *Local[T] {
	t := reflect.TypeOf((*T)(nil)).Elem()
	l := &Local[T]{kind: kindOf(t)}
	if initial != nil {
		// An address tells the assembly whether a value is set. Without one, and without a zero
		// value, it calls slowValue.
		l.kind = boxed
		l.first = func() unsafe.Pointer { return l.setFirst(initial) }
	} else {
		l.zero = unsafe.Pointer(new(T))
	}
	l.indirect = l.kind == boxed
	// A concrete type says now whether its values can be closed; with an interface type it depends
	// on the value.
	closer := reflect.TypeOf((*io.Closer)(nil)).Elem()
	l.closes = t.Kind() == reflect.Interface || t.Implements(closer)

	var toClose func(*slot) io.Closer
	if l.closes {
		toClose = l.closerIn
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

// Named gives the local a name, and returns the local:
//
//	var requests = exeunt.NewLocal[int]().Named("requests")
//
// [Goroutines] tells by these names which values a goroutine has. Several locals may have the same
// name; a second call changes it.
func (l *Local[T]) Named(name string) *Local[T] {
	l.check()
	locals.Lock()
	defer locals.Unlock()
	// Goroutines may be reading the old slice.
	all := append(make([]named, 0, len(locals.named)+1), locals.named...)
	for i := range all {
		if all[i].index == l.index {
			all[i].name = name
			locals.named = all
			return l
		}
	}
	locals.named = append(all, named{name, l.index, l.kind})
	return l
}

// Name returns the name that [Local.Named] has given to the local, or "".
func (l *Local[T]) Name() string {
	l.check()
	locals.Lock()
	defer locals.Unlock()
	for _, local := range locals.named {
		if local.index == l.index {
			return local.name
		}
	}
	return ""
}

// setFirst sets the value that a local's goroutine has at first, and returns its address.
func (l *Local[T]) setFirst(initial func() T) unsafe.Pointer {
	lookupOrArm() // panics before initial has run
	v := new(T)
	*v = initial()
	s := lookupOrArm().slotToSet(l.index)
	if l.isSet(s) { // by initial
		l.Set(*v)
		return unsafe.Pointer(v)
	}
	s.pointer, s.word = unsafe.Pointer(v), set
	if l.closes {
		lookup().closes = true
	}
	return s.pointer
}

// closerIn returns what is to be closed of a slot, or nil.
func (l *Local[T]) closerIn(s *slot) io.Closer {
	if !l.isSet(s) || l.isShared(s) {
		return nil
	}
	return closerOf(*l.at(s))
}

// closerOf returns v as what is to be closed, or nil.
func closerOf[T any](v T) io.Closer {
	c, _ := any(v).(io.Closer)
	if v := reflect.ValueOf(c); c == nil || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil
	}
	return c
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

// Get returns the running goroutine's value. If it has set none, that is T's zero value, or for a
// Local made by [NewLocalFunc] the initial value, which is then set. A read takes no lock and makes
// no allocation.
func (l *Local[T]) Get() T {
	// ^This is small enough to be inlined, so that a read is one call.
	return *(*T)(value(&l.localBase))
}

// Lookup returns the running goroutine's value and whether one is set. It never sets one.
func (l *Local[T]) Lookup() (v T, ok bool) {
	l.check()
	if r := lookup(); r != nil {
		if s := r.slot(l.index); s != nil && l.isSet(s) {
			return *l.at(s), true
		}
	}
	return v, false
}

// Set sets the running goroutine's value. It panics with the error of [Install] where goroutine
// exits cannot be redirected, and in [Slot] mode where [AtExit] panics.
//
// If the value before has to be closed (see [Local]), Set closes it once the new one is in place: a
// Get in its Close returns the new value. It stays open if the new value is the same one: both are
// equal by ==, or they are the same map, channel or function, or of a type that cannot be compared
// and alike in every bit. Set cannot see that the new value contains the one before; use
// [Local.Swap] then. A panic in Close and an error of it are reported (see [OnPanic]), and Set
// returns. Nothing is compared if the value before has no Close method.
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
	if l.closes {
		l.setClosing(r, s, v)
		return
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

// setClosing is Set for a local whose values may have to be closed.
//
//go:noinline
func (l *Local[T]) setClosing(r *record, s *slot, v T) {
	if before := l.replace(r, s, v); before != nil {
		r.closeRemoved(before)
	}
}

// replace sets a value, and returns what is to be closed of the one before. A value that is the same
// as the one before stays marked as another goroutine's.
func (l *Local[T]) replace(r *record, s *slot, v T) (before io.Closer) {
	mine := true
	if l.closes {
		r.closes = true
		before = l.closerIn(s)
		if (before != nil || l.isShared(s)) && isSame(l.at(s), &v) {
			before, mine = nil, !l.isShared(s)
		}
	}
	switch l.kind {
	case scalar:
		*(*T)(unsafe.Pointer(&s.word)) = v
		s.pointer = unsafe.Pointer(&setMark)
	case direct:
		*(*T)(unsafe.Pointer(&s.pointer)) = v
		s.word = set
	default:
		l.setBoxed(s, v)
	}
	if !mine {
		l.markShared(s)
	}
	return before
}

// isSame reports whether two values are one for Set.
func isSame[T any](a, b *T) bool {
	size := unsafe.Sizeof(*a)
	if string(unsafe.Slice((*byte)(unsafe.Pointer(a)), size)) == string(unsafe.Slice((*byte)(unsafe.Pointer(b)), size)) {
		return true
	}
	return reflect.ValueOf(a).Elem().Comparable() && reflect.ValueOf(b).Elem().Comparable() && any(*a) == any(*b)
}

// Swap sets the running goroutine's value, and returns the one before and whether one was set. Swap
// closes nothing: the value that it returns is the caller's to close, unless it was inherited
// without a child function (see [NewInheritable]). It panics like [Local.Set].
func (l *Local[T]) Swap(v T) (before T, ok bool) {
	l.check()
	r := lookupOrArm()
	s := r.slotToSet(l.index)
	if l.isSet(s) {
		before, ok = *l.at(s), true
	}
	l.replace(r, s, v)
	return before, ok
}

// Del removes the running goroutine's value. If it has to be closed (see [Local]), Del then closes
// it, and reports a panic and an error as [Local.Set] does. To take a value out without closing it,
// swap it for a zero value.
func (l *Local[T]) Del() {
	l.check()
	r := lookup()
	if r == nil {
		return
	}
	s := r.slot(l.index)
	if s == nil {
		return
	}
	var before io.Closer
	if l.closes {
		before = l.closerIn(s)
	}
	*s = slot{}
	if before != nil {
		r.closeRemoved(before)
	}
}

// GetOrInit returns the running goroutine's value. If none is set, GetOrInit calls init and sets
// the result. It panics with the error of [Install], before it calls init, where goroutine exits
// cannot be redirected. init replaces the function given to [NewLocalFunc].
func (l *Local[T]) GetOrInit(init func() T) T {
	v, ok := l.Lookup()
	if !ok {
		lookupOrArm() // panics before init has run
		v = init()
		l.Set(v)
	}
	return v
}
