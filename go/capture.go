package exeunt

// A Captured has what one goroutine passes on to others: its context (see [With]) and the values of
// its inheritable locals (see [NewInheritable]). [Capture] makes one. It never changes, can be
// copied, and can be used by several goroutines at the same time. The zero Captured has nothing.
type Captured struct {
	context    any
	hasContext bool
	setters    []func(*record)
}

// Capture takes what the running goroutine passes on, as [Go] does: the context as it is now, and
// the values of the inheritable locals, or for a local with a child function what that function
// returns. [Captured.Run] makes them current for one call on any goroutine. So work that a pool, a
// timer or a library's go statement runs has the values of the code that has ordered it, and not
// those of the code that has started the goroutine.
//
// On a goroutine that uses nothing of this package, and where goroutine exits cannot be redirected
// (see [Install]), Capture takes nothing and makes no allocation. Otherwise it makes a few for each
// value. A panic of a child function is passed on.
func Capture() Captured {
	r := lookup()
	if r == nil {
		return Captured{}
	}
	r.pins++ // as in inheritedSetters
	defer func() { r.pins-- }()
	setters := r.inheritedSetters()
	return Captured{r.context, r.hasContext, setters}
}

// Run calls fn on the running goroutine, which may be any, with what c has captured. While fn runs,
// that replaces the goroutine's own context and values of inheritable locals: [Get] returns the
// captured context, and a local has the captured value, or none if the captured goroutine had none.
// All other locals and the functions registered by [AtExit] are the running goroutine's.
//
// When fn returns, panics or calls [runtime.Goexit], Run puts back what was there before, so that
// nothing of fn is left, also if fn has called [Reset] or [Unload]. Values that fn has set in
// inheritable locals are closed then (see [Local]). Captured values are the captured goroutine's:
// Run does not close them. The exception is a value that a child function has made and that has a
// Close: only the first Run of c has it, and closes it when fn has ended. Other calls of Run find
// none. Capture once for each of them then, as [Wrap] does for each function.
//
// If fn calls [os.Exit], the values that were put aside are closed last. Calls can be nested. Run
// takes some 100 nanoseconds, and makes two allocations and one for some kinds of values. Where
// goroutine exits cannot be redirected (see [Install]), Run only calls fn. In [Slot] mode Run
// panics where [AtExit] does.
func (c Captured) Run(fn func()) {
	if Install() != nil {
		fn()
		return
	}
	r := lookupOrArm()
	r.pins++ // so that Unload keeps the record, and what is set aside in it
	r.setAside(inheritableIndices())
	defer func() {
		toClose := r.putBack()
		defer func() { r.pins-- }()
		r.closeAll(toClose)
	}()
	r.context, r.hasContext = c.context, c.hasContext
	for _, setValue := range c.setters {
		setValue(r)
	}
	fn()
}

// Wrap captures as [Capture] does, and returns a function that calls fn with what was captured (see
// [Captured.Run]). It is for functions that another goroutine calls later: those given to
// errgroup.Group.Go, sync.WaitGroup.Go, [time.AfterFunc] or a pool.
func Wrap(fn func()) func() {
	if fn == nil {
		// Panic here and not on another goroutine, whose traceback would not show the caller.
		panic("exeunt: Wrap(nil)")
	}
	c := Capture()
	return func() { c.Run(fn) }
}
