package exeunt

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync/atomic"

	reporting "exeunt.invalid/exeunt/internal/report"
)

var panicReporter atomic.Pointer[func(value any, stack []byte)]

// OnPanic sets the function that is called when a handler or a Close panics, or when a Close
// returns an error. It is called on the goroutine concerned, with the panic's value or the error,
// and with the stack at the panic (nil for an error). OnPanic(nil) restores the default, which
// writes both to standard error. The other handlers run in any case.
func OnPanic(report func(value any, stack []byte)) {
	if report == nil {
		panicReporter.Store(nil)
		return
	}
	panicReporter.Store(&report)
}

// reportPanic is called by the deferred function that recovered the panic, where the stack still
// has the frames that panicked.
func reportPanic(value any) { report(value, debug.Stack()) }

func init() { reporting.Report = report }

func report(value any, stack []byte) {
	if reporter := panicReporter.Load(); reporter != nil {
		defer func() {
			if again := recover(); again != nil {
				fmt.Fprintf(os.Stderr, "exeunt: the function given to OnPanic panicked: %v\n", again)
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
