package exeunt

import (
	"sync/atomic"
	"unsafe"
)

// lookup is the running goroutine's record, or nil.
func lookup() *record {
	if r := current(); r != nil {
		return r
	}
	return lookupElsewhere()
}

func lookupElsewhere() *record {
	if atomic.LoadUint32(&common.mapped) == 0 {
		return nil
	}
	return others.get(getg())
}

// own is the running goroutine's record; it has one afterwards.
func own() *record {
	if r := lookup(); r != nil {
		return r
	}
	return arm()
}

// arm gives the running goroutine, which has none, a record.
func arm() *record {
	if err := Install(); err != nil {
		panic(err)
	}
	g := getg()
	if !useMap {
		if r := allocate(g); r != nil {
			r.owner.Store(g)
			mark(uint64(r.index))
			return r
		}
	}
	r := new(record)
	r.owner.Store(g)
	others.add(g, r)
	if !useMap {
		mark(0) // valid words with no place in the table: at the goroutine's end it is looked for in the map
	}
	return r
}

// slowValue is value for records that are in the map, and for locals that are not among the first.
func slowValue(l *localBase) unsafe.Pointer {
	if l.zero == nil {
		panicUnmade()
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

func panicUnmade() {
	panic("exeunt: a Local that was not made by NewLocal or NewInheritable: write var name = exeunt.NewLocal[T]()")
}
