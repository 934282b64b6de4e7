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

// With runs fn; until it returns, panics or calls runtime.Goexit, [Get] returns ctx on this goroutine. Calls can be nested.
//
// ctx may be anything: a [context.Context], a request, a struct of the program's own.
func With(ctx any, fn func()) {
	r := own()
	context, entered := r.context, r.entered
	r.context, r.entered = ctx, true
	defer func() {
		// If fn called Unload, there is nothing to go back to.
		if r := lookup(); r != nil && r.entered {
			r.context, r.entered = context, entered
		}
	}()
	fn()
}

// Get returns the context of the innermost [With]. It panics if there is none, so also where goroutine exits cannot be redirected (see [Install]).
func Get() any {
	if r := lookup(); r != nil && r.entered {
		return r.context
	}
	panic("exeunt: Get outside of With (GetSafe returns nil there)")
}

// GetSafe is [Get], but returns nil outside of [With].
func GetSafe() any {
	if r := lookup(); r != nil {
		return r.context
	}
	return nil
}

// Go starts a goroutine that runs fn with the context of the running goroutine (see [With]) and with the values of its inheritable locals (see
// [NewInheritable]). A goroutine started by a plain go statement has neither.
func Go(fn func()) {
	if fn == nil {
		panic("exeunt: Go(nil)") // here, not on the new goroutine, where nobody would see who has called
	}
	r := lookup()
	if r == nil {
		go fn()
		return
	}
	bequests := r.bequests()
	if !r.entered && bequests == nil {
		go fn()
		return
	}
	context, entered := r.context, r.entered
	go func() {
		r := own()
		r.context, r.entered = context, entered
		for _, bequest := range bequests {
			bequest(r)
		}
		fn()
	}()
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
