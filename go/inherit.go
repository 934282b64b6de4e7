package exeunt

// NewInheritable makes a [Local] whose value is passed on to goroutines that [Go] starts. For each
// of them, child is called in the parent, with the parent's value; the new goroutine's value is
// what child returns, and is closed as usual. If child is nil, both goroutines have the same value;
// it is the parent's, so the new goroutine does not close it.
func NewInheritable[T any](child func(T) T) *Local[T] {
	l := NewLocal[T]()
	shares := child == nil
	inherit := func(parent *record) func(*record) {
		s := parent.slot(l.index)
		if s == nil || !l.isSet(s) {
			return nil
		}
		v := *l.at(s)
		if !shares {
			v = child(v)
		}
		return func(r *record) {
			l.Set(v)
			if shares && l.closes {
				l.markShared(r.slot(l.index))
			}
		}
	}
	locals.Lock()
	defer locals.Unlock()
	locals.inheritable = append(locals.inheritable, inherit)
	return l
}

// inheritedSetters returns functions that copy the values of the inheritable locals into another
// goroutine's record.
func (r *record) inheritedSetters() (setters []func(*record)) {
	locals.Lock()
	inheritable := locals.inheritable[:len(locals.inheritable):len(locals.inheritable)]
	locals.Unlock()
	r.pins++ // the child functions of the program may call Unload
	defer func() { r.pins-- }()
	for _, inherit := range inheritable {
		if setValue := inherit(r); setValue != nil {
			setters = append(setters, setValue)
		}
	}
	return setters
}
