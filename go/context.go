package exeunt

// With calls fn. Until fn returns, panics or calls runtime.Goexit, [Get] returns ctx on this
// goroutine. Calls can be nested.
//
// ctx can be any value: a [context.Context], a request, a struct of the program.
func With(ctx any, fn func()) {
	r := lookupOrArm()
	context, hasContext := r.context, r.hasContext
	r.context, r.hasContext = ctx, true
	defer func() {
		// After an Unload in fn there is no context to restore.
		if r := lookup(); r != nil && r.hasContext {
			r.context, r.hasContext = context, hasContext
		}
	}()
	fn()
}

// Get returns the context of the innermost [With]. It panics outside of With, and so also where
// goroutine exits cannot be redirected (see [Install]).
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

// Go starts a goroutine that calls fn with the context of the running goroutine (see [With]) and
// the values of its inheritable locals (see [NewInheritable]). A plain go statement passes on
// neither; [Wrap] and [Capture] do so where other code has the go statement.
//
// In [Slot] mode a [runtime.Goexit] on a goroutine that Go has started is noticed at once, after
// its deferred functions. On other goroutines it is noticed late (see [AtExit]). In [Collected] mode the
// same holds for every end.
func Go(fn func()) {
	if fn == nil {
		// Panic here and not on the new goroutine, whose traceback would not show the caller.
		panic("exeunt: Go(nil)")
	}
	r := lookup()
	if r == nil {
		start(fn)
		return
	}
	setters := r.inheritedSetters()
	if !r.hasContext && setters == nil {
		start(fn)
		return
	}
	context, hasContext := r.context, r.hasContext
	start(func() {
		r := lookupOrArm()
		r.context, r.hasContext = context, hasContext
		for _, setValue := range setters {
			setValue(r)
		}
		fn()
	})
}

// start starts a goroutine. In slot mode it notices a Goexit there, and in collected mode every end, after
// all other deferred functions. fn may be the first to use this package, so start installs it, to know the mode.
func start(fn func()) {
	if Install() != nil || InForce() == Code {
		go fn()
		return
	}
	leave := leaveByExit
	if inCollectedMode() {
		leave = leaveBesides
	}
	go func() {
		returned := false
		defer func() {
			// If fn panics, the goroutine is not ending, or the whole process is.
			ending := Exited
			switch {
			case returned:
				if inSlotMode() {
					return // its foot notices it
				}
				ending = Returned
			case calledFirst("runtime.gopanic", "runtime.Goexit") != "runtime.Goexit":
				return
			}
			if r := lookup(); r != nil {
				r.end(ending, leave)
			}
		}()
		fn()
		returned = true
	}()
}
