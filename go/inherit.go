package exeunt

// NewInheritable makes a [Local] whose value goes along to goroutines that are started by [Go]. child is called in the parent for each, and
// returns the new goroutine's value; the new goroutine closes it as usual. If child is nil, both have the same value, and as it
// is the parent's, the children don't close it.
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

// inheritedSetters is what puts the values of the inheritable locals into another goroutine's record.
func (r *record) inheritedSetters() (setters []func(*record)) {
	locals.Lock()
	inheritable := locals.inheritable[:len(locals.inheritable):len(locals.inheritable)]
	locals.Unlock()
	r.pins++ // the functions of the program's that make the values may call Unload
	defer func() { r.pins-- }()
	for _, inherit := range inheritable {
		if setValue := inherit(r); setValue != nil {
			setters = append(setters, setValue)
		}
	}
	return setters
}
