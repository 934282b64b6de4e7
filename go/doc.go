// Package exeunt gives every goroutine storage of its own and exit handlers, including goroutines
// that other code has started:
//
//	var requests = exeunt.NewLocal[int]()
//
//	func anywhere() {
//		if requests.Get() == 0 { // the first time on this goroutine
//			exeunt.AtExit(func() { log.Print("this goroutine made ", requests.Get(), " requests") })
//		}
//		requests.Set(requests.Get() + 1)
//	}
//
// Handlers run when the goroutine ends: when it returns, calls [runtime.Goexit], has recovered a
// panic, at the end of main, and at [os.Exit] on the goroutine that calls it. Slot and collected mode,
// the defaults on other systems than Linux and on other processors than amd64 and arm64, notice fewer of
// these ends (see below). Values that
// implement [io.Closer] are closed then, so nothing is left behind, and no later goroutine finds
// the values of an earlier one. A goroutine that is used again, such as that of a keep-alive
// connection or of a worker, stays one goroutine: call [Reset] between its jobs.
//
// # When to use context.Context instead
//
// Nearly always, if you can pass one to your functions. A context makes the dependency visible in a
// function's type, can be passed to other goroutines, carries deadlines, and works on every system.
// This package is for what a context cannot reach: code between two others that takes no context (a
// logger, a driver, a library with a fixed signature), resources that belong to a goroutine rather
// than to a call, and ends of goroutines that other code has started. It is also not for data that
// goroutines share: every goroutine has its own value of a [Local].
//
// # How it works
//
// Go has no hook for the end of a goroutine. On Linux the first use of this package therefore
// redirects a few calls in the runtime's machine code. Each call is found by decoding, and both the
// calling function and the called one must have the expected names in the runtime's function table.
// Up to three more instructions change in this package's own code. Nothing else of the program
// changes, and no address on a stack. README.md lists all of them, with a picture.
//
// A goroutine's record is found through spare words that the runtime leaves at the base of the
// goroutine's stack: a read is one call of some 20 instructions, without a lock.
//
// # Code, slot and collected mode
//
// That is code mode, the default on Linux, and not there on other systems. Slot mode changes no
// code. It is the default on the other systems, on amd64 and arm64, and on riscv64, and can be asked for
// on Linux (see [Mode]). A goroutine's first use of the package then replaces the return address of its
// entry function on its stack. What differs:
//
//   - An end by [runtime.Goexit] (so by t.FailNow and t.SkipNow), and that of a function given to
//     [iter.Pull], is noticed late: by the garbage collector. The handlers run then, on another
//     goroutine that has the values and the ID. Where [Go] has started the goroutine, Goexit is
//     noticed at once.
//   - The return of main.main and [os.Exit] are not noticed: no handler runs.
//   - Late handlers are lost if the process ends before a collection. An idle program may have none
//     for two minutes, and with GOGC=off none by itself. A finalizer that blocks, anywhere in the
//     program, stops all late handlers. To have them run, call [runtime.GC] twice, and wait for
//     them.
//   - The goroutine of a late handler has no profiler labels, no locked thread, and is outside of
//     the bubble of testing/synctest: to use a channel of the bubble is a fatal error there. Each
//     ended goroutine is given one of its own, all those that a collection has found at the same
//     time.
//   - [Ending] is never [Recovered], [ProcessExit] or [MainReturned].
//   - Callbacks from C on threads of C cannot use the package. On arm64, nor can other callbacks,
//     unless their goroutine has used it before.
//
// Collected mode changes neither code nor stacks. It is the default on other processors (386, arm, wasm
// and the like), and can be asked for everywhere. There every end is noticed late, as Goexit is in slot
// mode, except on goroutines that Go has started, whose ends are noticed at once. Ending is [Ended]
// after a late end. main.main, os.Exit and callbacks from C are as in slot mode.
//
// README.md has the same function by function.
//
// # When it refuses
//
// Where the runtime is not as expected (another Go version, an unusual build), the package changes
// nothing, and [Install] returns an error that
// says what was found instead. "Where goroutine exits cannot be redirected", in the descriptions of
// functions, means that Install returns an error. Functions that give a goroutine its record panic
// with the same error: [AtExit], [ID], [With], the methods Set, Swap and GetOrInit of a [Local],
// and Get of one that [NewLocalFunc] has made. Its other methods Get and Lookup, [GetSafe] and
// [Goroutines] do not panic: there is nothing to find. [Go], [Captured.Run] and the functions that
// [Wrap] returns call their function and pass on nothing.
//
// In slot and collected mode the functions that panic there, and Run, also panic on a goroutine whose end cannot
// be noticed.
package exeunt
