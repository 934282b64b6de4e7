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
// panic, at the end of main, and at [os.Exit] on the goroutine that calls it. Values that implement
// [io.Closer] are closed then, so nothing is left behind, and no later goroutine finds the values
// of an earlier one. A goroutine that is used again, such as that of a keep-alive connection or of
// a worker, stays one goroutine: call [Reset] between its jobs.
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
// Go has no hook for the end of a goroutine. The first use of this package therefore redirects a
// few calls in the runtime's machine code. Each call is found by decoding, and both the calling
// function and the called one must have the expected names in the runtime's function table. Up to
// three more instructions change in this package's own code. Nothing else of the program changes,
// and no address on a stack. README.md lists all of them, with a picture.
//
// A goroutine's record is found through spare words that the runtime leaves at the base of the
// goroutine's stack: a read is one call of some 20 instructions, without a lock.
//
// This is code mode, for Linux. Elsewhere slot mode changes no code, and notices some ends late or not
// at all; see [Mode].
//
// # When it refuses
//
// Where the runtime is not as expected (another Go version, an unusual build, another processor than
// amd64 or arm64), the package changes nothing, and [Install] returns an error that says
// what was found instead. Functions that need the redirection panic with the same error: [AtExit],
// [ID], [With], the methods Set, Swap and GetOrInit of a [Local], and Get of one that [NewLocalFunc]
// has made. Its other methods Get and Lookup, [GetSafe] and [Goroutines] do not panic: there is nothing
// to find. [Go], [Captured.Run] and the functions that [Wrap] returns call their function and pass on
// nothing.
package exeunt
