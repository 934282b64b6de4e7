package exeunt

import "sync/atomic"

// NewInheritable makes a [Local] whose value is passed on to goroutines that [Go] starts, and by
// [Capture]. Both call child in the parent, with the parent's value. The other goroutine's value is
// what child returns, and is closed as usual. If child is nil, both goroutines have the
// same value; it is the parent's, so the other goroutine does not close it.
func NewInheritable[T any](child func(T) T) *Local[T] {
	l := NewLocal[T]()
	shares := child == nil
	inherit := func(parent *record) func(*record) {
		s := parent.slot(l.index)
		if s == nil || !l.isSet(s) {
			return nil
		}
		v := *l.at(s)
		if shares {
			return func(r *record) {
				l.Set(v)
				if l.closes {
					l.markShared(r.slot(l.index))
				}
			}
		}
		v = child(v)
		if !l.closes || closerOf(v) == nil {
			return func(*record) { l.Set(v) }
		}
		// Only one goroutine can close it, so only one gets it.
		var taken atomic.Bool
		return func(*record) {
			if taken.CompareAndSwap(false, true) {
				l.Set(v)
			}
		}
	}
	locals.Lock()
	defer locals.Unlock()
	locals.inheritable = append(locals.inheritable, inheritable{l.index, inherit})
	return l
}

// allInheritable returns the inheritable locals. They are in the order of their indices, nearly: if
// two are created at the same time, in either order.
func allInheritable() []inheritable {
	locals.Lock()
	defer locals.Unlock()
	return locals.inheritable[:len(locals.inheritable):len(locals.inheritable)]
}

// inheritedSetters returns functions that copy the values of the inheritable locals into another
// goroutine's record.
func (r *record) inheritedSetters() (setters []func(*record)) {
	r.pins++ // the child functions of the program may call Unload
	defer func() { r.pins-- }()
	for _, local := range allInheritable() {
		if setValue := local.inherit(r); setValue != nil {
			setters = append(setters, setValue)
		}
	}
	return setters
}

// inheritableIndices are the indices of the inheritable locals.
func inheritableIndices() []int {
	all := allInheritable()
	indices := make([]int, len(all))
	for i, local := range all {
		indices[i] = local.index
	}
	return indices
}
