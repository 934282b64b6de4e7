package exeunt

import "unsafe"

// slowValue is value for goroutines whose record is in the map, and for locals after the first
// ones.
func slowValue(l *localBase) unsafe.Pointer {
	if l.zero == nil {
		panicInvalidLocal()
	}
	r := lookup()
	if r == nil {
		return l.zero
	}
	s := r.slot(l.index)
	if s == nil {
		return l.zero
	}
	switch {
	case !l.indirect:
		return unsafe.Add(unsafe.Pointer(s), l.inSlot)
	case s.pointer == nil:
		return l.zero
	}
	return s.pointer
}

func panicInvalidLocal() {
	panic("exeunt: a Local that was not made by NewLocal or NewInheritable: write var name = exeunt.NewLocal[T]()")
}
