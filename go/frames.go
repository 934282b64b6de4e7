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

// outermost returns the functions of the two outermost frames of the running goroutine.
func outermost() (last, before string) {
	pcs := make([]uintptr, 64)
	n := runtime.Callers(0, pcs)
	for n == len(pcs) {
		pcs = make([]uintptr, 4*len(pcs))
		n = runtime.Callers(0, pcs)
	}
	name := func(pc uintptr) string {
		if f := runtime.FuncForPC(pc); f != nil {
			return f.Name()
		}
		return ""
	}
	return name(pcs[n-1]), name(pcs[n-2])
}
