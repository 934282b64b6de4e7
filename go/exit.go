package exeunt

// AtExit registers a function, not nil, to be run when the running goroutine ends, on that goroutine: after all deferred functions, so also after
// a deferred call of a WaitGroup's Done. The last one registered runs first.
//
// A goroutine ends when its entry function returns, by [runtime.Goexit] (so by t.FailNow and t.SkipNow too), and on a panic that a deferred
// function has recovered it ends like any other. The main goroutine ends when main.main returns. [os.Exit] ends the goroutine that
// calls it; the process ends then without the others coming to their end, so their functions do not run. They do not run either when the
// process is killed by an unrecovered panic, a fatal error or a signal.
//
// The function may do whatever other code may: block, allocate, start goroutines, use storage, register further functions (which then run
// next) and call runtime.Goexit, which ends only the function itself. If it panics, the panic is reported (see [OnPanic]) and the others run.
//
// On the thread of a C program that calls into Go, a goroutine ends when the outermost callback returns to C.
func AtExit(f func()) {
	if f == nil {
		panic("exeunt: AtExit(nil)")
	}
	r := lookupOrArm()
	r.handlers = append(r.handlers, f)
}

// ID returns a number that identifies the running goroutine, never 0. It stays the same until the goroutine ends or calls [Unload], and no
// other goroutine of this process ever gets it. It isn't the number in the runtime's tracebacks.
func ID() int64 { return lookupOrArm().identity() }

// Reset forgets the values that the running goroutine has set, and closes those that are to be closed (see [Local]). Functions registered by
// [AtExit] stay, and so does the context of [With]. What is still being set by Close after 100 rounds is dropped, with a report.
func Reset() {
	if r := lookup(); r != nil {
		r.reset()
	}
}

// Unload forgets all that the running goroutine has: values, which are closed as by [Reset], the context, and functions registered by AtExit,
// which will not run, whoever has registered them. It can begin anew; then it has another [ID]. Inside [With] that leaves the context of all of them.
func Unload() {
	if r := lookup(); r != nil {
		r.unload()
	}
}
