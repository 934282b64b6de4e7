//go:build go1.23 && linux && (amd64 || arm64)

package exeunt

import (
	"errors"
	"iter"
	"runtime"
)

// findCorostart runs iter.Pull and finds, on the stack of its goroutine, the entry function of such
// goroutines: runtime.corostart. A new goroutine does so: that of the caller may be locked to a
// thread, run a callback from C, be a coroutine or be ending.
func findCorostart() (entry uintptr, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		entry, err = pullOnce()
	}()
	<-done
	return entry, err
}

func pullOnce() (entry uintptr, err error) {
	next, stop := iter.Pull(func(func(struct{}) bool) {
		pcs := make([]uintptr, 64)
		frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs)])
		for {
			frame, more := frames.Next()
			if frame.Function == "runtime.corostart" {
				entry = frame.Entry
			}
			if !more {
				return
			}
		}
	})
	next()
	stop()
	if entry == 0 {
		err = errors.New("iter.Pull does not run its function on a goroutine that begins with runtime.corostart")
	}
	return entry, err
}
