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
				l.lend(r.slot(l.index))
			}
		}
	}
	locals.Lock()
	defer locals.Unlock()
	locals.inherited = append(locals.inherited, inherit)
	return l
}

// bequests is what puts the values of the inheritable locals into another goroutine's record.
func (r *record) bequests() (all []func(*record)) {
	locals.Lock()
	inherited := locals.inherited[:len(locals.inherited):len(locals.inherited)]
	locals.Unlock()
	r.busy++ // the functions of the program's that make the values may call Unload
	defer func() { r.busy-- }()
	for _, inherit := range inherited {
		if bequest := inherit(r); bequest != nil {
			all = append(all, bequest)
		}
	}
	return all
}
