package exeunt

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	shared "exeunt.invalid/exeunt/internal/report"
)

var installation struct {
	once sync.Once
	err  error
}

// Install redirects goroutine exits in this program, once. The first call of anything that needs it does the same, and panics with this
// error; a program that wants to know beforehand, or to go on without, calls Install.
//
// The error says what was found instead of what is known: which function, and what it calls. The program is then as it was.
func Install() error {
	installation.once.Do(func() {
		if err := install(); err != nil {
			installation.err = fmt.Errorf("exeunt: goroutine exits cannot be redirected in this program (%s, %s/%s), and nothing was changed: %w",
				runtime.Version(), runtime.GOOS, runtime.GOARCH, err)
		}
	})
	return installation.err
}

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
	r := own()
	r.handlers = append(r.handlers, f)
}

// ID returns a number that identifies the running goroutine, never 0. It stays the same until the goroutine ends or calls [Unload], and no
// other goroutine of this process ever gets it. It isn't the number in the runtime's tracebacks.
func ID() int64 { return own().identity() }

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

var panicReporter atomic.Pointer[func(value any, stack []byte)]

// OnPanic sets what happens when a function registered by [AtExit], or a Close, panics or when a Close returns an error: report is called on
// that goroutine, with the panic's value or the error, and with the stack as it was (nil for an error). nil restores
// the default, which writes both to standard error. The other functions run in any case.
func OnPanic(report func(value any, stack []byte)) {
	if report == nil {
		panicReporter.Store(nil)
		return
	}
	panicReporter.Store(&report)
}

// reportPanic is called by the deferred function that recovered the panic, so the stack still has the frames that panicked.
func reportPanic(value any) { report(value, debug.Stack()) }

func init() { shared.Report = report }

func report(value any, stack []byte) {
	if reporter := panicReporter.Load(); reporter != nil {
		defer func() {
			if again := recover(); again != nil {
				fmt.Fprintf(os.Stderr, "exeunt: the function given to OnPanic panicked itself: %v\n", again)
			}
		}()
		(*reporter)(value, stack)
		return
	}
	if stack == nil {
		fmt.Fprintf(os.Stderr, "%v\n", value)
		return
	}
	fmt.Fprintf(os.Stderr, "exeunt: panic while a goroutine was ending: %v\n\n%s\n", value, stack)
}

func closeAndReport(c io.Closer) {
	if err := c.Close(); err != nil {
		report(fmt.Errorf("exeunt: closing a %T: %w", c, err), nil)
	}
}
