//go:build go1.23 && linux && (amd64 || arm64)

package exeunt

import (
	"errors"
	"iter"
	"runtime"
)

// corostart finds runtime.corostart, the entry function of the goroutines behind iter.Pull, beneath one of them.
func findCorostart() (entry uintptr, err error) {
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
		err = errors.New("iter.Pull runs its function, but not beneath runtime.corostart")
	}
	return entry, err
}
