// Package exeunt gives any goroutine storage of its own and exit handlers, whoever has started it:
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
// Handlers run when the goroutine ends: by return, by [runtime.Goexit], after a recovered panic, at the end of main, and at [os.Exit] on the
// goroutine that calls it. Values that implement [io.Closer] are closed then. So nothing is left behind, and no later goroutine finds what another
// one has set. A goroutine that is used again, such as a keep-alive connection's or a worker's, is one goroutine: [Reset] between its jobs.
//
// # When context.Context is the better answer
//
// Nearly always, where functions can be given one: it says in a function's type what it depends on, it goes along to other goroutines by itself, it
// carries deadlines, and it works on every system. This package is for what a context cannot reach: code between two others that takes
// none (a logger, a driver, a library with a fixed signature), resources that belong to a goroutine rather than to a call, and ends of goroutines
// that somebody else has started. It is also not for data that other goroutines share: a local is one goroutine's.
//
// # How it works
//
// Go has no hook for a goroutine's end, so the first use of the package makes one: it retargets a few calls in the runtime's machine code,
// after each has been found by decoding, and both of its ends have been named by the runtime's function table. Three jumps
// in this package's own code change as well, and nothing else of the program, on no stack an address. See README.md for the list, with a picture.
//
// A goroutine's record is found through spare words that the runtime leaves at the top of its stack: a read is one call, of some 20
// instructions, without a lock.
//
// # When it refuses
//
// Where the runtime isn't what is known here (another Go version, an unusual build, another system than Linux on amd64 or arm64) nothing is changed,
// and [Install] returns an error that says what was found instead. Everything that needs the redirection panics with the same error: [AtExit], [ID],
// [With], and the Set and GetOrInit of a [Local]. Its Get and Lookup, and [GetSafe], don't panic: there is nothing to be found.
package exeunt
