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
// The function may do what any code may: block, allocate, start goroutines, use storage, and
// register further functions, which are called next. It may call runtime.Goexit, which ends only
// the function itself. If it panics, the panic is reported (see [OnPanic]) and the other functions
// are called.
//
// On a thread of a C program that calls Go, a goroutine ends when the outermost callback returns to
// C.
func AtExit(f func()) {
	if f == nil {
		panic("exeunt: AtExit(nil)")
	}
	r := lookupOrArm()
	r.handlers = append(r.handlers, f)
}

// ID returns a number that identifies the running goroutine. It is never 0. It stays the same until
// the goroutine ends or calls [Unload], and no other goroutine of this process gets the same
// number. It is not the number in the runtime's tracebacks.
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
