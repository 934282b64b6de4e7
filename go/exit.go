package exeunt

// AtExit registers f, which must not be nil, to be called on the running goroutine when it ends.
// The function registered last is called first. All of them run after the goroutine's deferred
// functions, so also after a deferred WaitGroup.Done.
//
// A goroutine ends when its entry function returns or calls [runtime.Goexit] (as t.FailNow and
// t.SkipNow do). After a panic that a deferred function has recovered it ends like any other. The
// main goroutine ends when main.main returns. [os.Exit] ends the goroutine that calls it; the
// process ends before the other goroutines do, so their functions are not called. None are called
// when an unrecovered panic, a fatal error or a signal kills the process.
//
// In [Slot] mode no function is called when main.main returns or at os.Exit. After runtime.Goexit,
// and after the end of a function given to [iter.Pull], they are called late: once the garbage
// collector has run, on another goroutine that has the values and the [ID]. They are not called if
// the process ends before that. A Goexit on a goroutine that [Go] has started is noticed at
// once. In [Collected] mode they are called late after every end, except on goroutines that Go has
// started.
//
// The function may do what any code may: block, allocate, start goroutines, use storage, and
// register further functions, which are called next. It may call runtime.Goexit, which ends only
// the function itself. If it panics, the panic is reported (see [OnPanic]) and the other functions
// are called.
//
// On a thread of a C program that calls Go, a goroutine ends when the outermost callback returns to
// C. In Slot and Collected mode AtExit panics there.
//
// Calling stop takes the registration back, as with [context.AfterFunc]. It returns true if f will
// now not be called. It returns false if f has been called or is running (so also within f), and if
// [Unload] or another call of stop has removed f. Code that registers a function for each request
// of a connection must stop it when the request ends, because the connection's goroutine goes on.
// Functions that are stopped use no memory that grows.
//
// Any goroutine may call stop, at any time: it either returns true, and f is never called, or it
// returns false. stop does not wait for an f that is running. It releases f at once and takes a few
// nanoseconds, however many functions are registered. The order of the others stays. AtExit makes
// one allocation of 16 bytes, and one more if its result is used.
//
// AtExit panics with the error of [Install] where goroutine exits cannot be redirected. In Slot
// mode it also panics on a goroutine whose end it cannot notice.
func AtExit(f func()) (stop func() bool) {
	// This is small enough to be inlined, so that a result which is not used costs nothing.
	return register(f).stop
}

func register(f func()) *handler {
	if f == nil {
		panic("exeunt: AtExit(nil)")
	}
	return lookupOrArm().addHandler(f)
}

// Ending returns how the running goroutine ends, in functions that [AtExit] has registered and in
// the Close of values. It returns [Running] while the goroutine is not ending.
//
// A handler or a Close that calls [os.Exit] changes it: what is then left of them sees
// [ProcessExit]. A runtime.Goexit in a handler ends only the handler, and changes nothing. A panic
// that is recovered by a deferred function of an inner frame than the entry function's is no end.
// Of a goroutine that [iter.Pull] has started, the entry function is the sequence; it is [Returned]
// also after a panic. Where the spare words of stacks are not used, Recovered is Returned.
//
// In [Slot] mode it is Returned also after a recovered panic, and [Exited] for a goroutine that
// iter.Pull has started, however that has ended. ProcessExit and MainReturned do not occur: no
// handler runs at these ends. In [Collected] mode it is [Ended], or Returned or Exited on a goroutine
// that [Go] has started.
func Ending() End {
	if r := lookup(); r != nil {
		return r.ending
	}
	return Running
}

// ID returns a number that identifies the running goroutine. It is never 0. It stays the same until
// the goroutine ends or calls [Unload], and no other goroutine of this process gets the same
// number. It is not the number in the runtime's tracebacks. In [Slot] mode handlers that run late,
// on another goroutine, get the number of the goroutine that has ended. ID panics where [AtExit]
// does.
func ID() int64 { return lookupOrArm().identity() }

// Reset removes the values that the running goroutine has set, and closes those that have to be
// closed (see [Local]). Functions registered by [AtExit] and the context of [With] stay. If Close
// functions keep setting values, those left after 100 rounds are dropped, with a report.
func Reset() {
	if r := lookup(); r != nil {
		r.reset()
	}
}

// Unload removes all that the running goroutine has stored: its values, which are closed as by
// [Reset], its context, and all functions registered by AtExit, which are not called. The goroutine
// can use the package again, with another [ID]. Within [With], Unload ends the contexts of all
// enclosing calls.
func Unload() {
	if r := lookup(); r != nil {
		r.unload()
	}
}
