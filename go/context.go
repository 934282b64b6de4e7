package exeunt

// With runs fn; until it returns, panics or calls runtime.Goexit, [Get] returns ctx on this goroutine. Calls can be nested.
//
// ctx may be anything: a [context.Context], a request, a struct of the program's own.
func With(ctx any, fn func()) {
	r := lookupOrArm()
	context, hasContext := r.context, r.hasContext
	r.context, r.hasContext = ctx, true
	defer func() {
		// If fn called Unload, there is nothing to go back to.
		if r := lookup(); r != nil && r.hasContext {
			r.context, r.hasContext = context, hasContext
		}
	}()
	fn()
}

// Get returns the context of the innermost [With]. It panics if there is none, so also where goroutine exits cannot be redirected (see [Install]).
func Get() any {
	if r := lookup(); r != nil && r.hasContext {
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
	setters := r.inheritedSetters()
	if !r.hasContext && setters == nil {
		go fn()
		return
	}
	context, hasContext := r.context, r.hasContext
	go func() {
		r := lookupOrArm()
		r.context, r.hasContext = context, hasContext
		for _, setValue := range setters {
			setValue(r)
		}
		fn()
	}()
}
