package exeunt

import "runtime"

// calledFirst returns which of two functions has the inner frame. One of them is among the few frames
// that are outside of a hook, or of a deferred function.
func calledFirst(a, b string) string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs[:])])
	for {
		frame, more := frames.Next()
		if frame.Function == a || frame.Function == b || !more {
			return frame.Function
		}
	}
}
