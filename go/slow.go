package exeunt

import "unsafe"

// slowValue is value for goroutines whose record is in the map, for locals after the first ones,
// and for a goroutine's first read of a local that has an initial value.
func slowValue(l *localBase) unsafe.Pointer {
	if l.zero == nil && l.first == nil {
		panicInvalidLocal()
	}
	if r := lookup(); r != nil {
		if s := r.slot(l.index); s != nil {
			switch {
			case !l.indirect:
				return unsafe.Add(unsafe.Pointer(s), l.inSlot)
			case s.pointer != nil:
				return s.pointer
			}
		}
	}
	if l.first != nil {
		return l.first()
	}
	return l.zero
}

// valueByNumber is value in collected mode.
func valueByNumber(l *localBase) unsafe.Pointer {
	if r := currentByNumber(); r != nil && l.index < inlineSlots {
		s := &r.slots[l.index]
		switch {
		case !l.indirect && l.zero != nil:
			return unsafe.Add(unsafe.Pointer(s), l.inSlot)
		case l.indirect && s.pointer != nil: // a Local that was not made by NewLocal is not indirect
			return s.pointer
		}
	} else if r == nil && l.zero != nil {
		return l.zero
	}
	return slowValue(l)
}

func panicInvalidLocal() {
	panic("exeunt: a Local that was not made by NewLocal, NewLocalFunc or NewInheritable: write var name = exeunt.NewLocal[T]()")
}
