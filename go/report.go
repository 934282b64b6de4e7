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

func init() { reporting.Report = report }

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
