//go:build linux && (amd64 || arm64)

package exeunt

import (
	"os"
	"runtime"
	"unsafe"
)

//lint:file-ignore U1000 called by assembly, whose uses staticcheck cannot see

// The redirected calls come here through redirect_*.s, on the goroutine that is ending, if it may have a record.

// goroutineEnds: by return, or by runtime.Goexit.
func goroutineEnds() {
	if r := lookup(); r != nil {
		r.end(leaveGoroutine)
	}
}

// processEnds: main.main has returned, or somebody called os.Exit. Only this goroutine is ending; the others will never run again, and
// handlers run nowhere but on their own goroutine.
func processEnds(code int) {
	if r := lookup(); r != nil {
		r.end(func() { os.Exit(code) })
	}
}

// coroutineEnds: the function given to iter.Pull has ended. argument is for the redirected call. Where that call is mcall(coroswitch_m), the
// runtime has already noted in g what the switch shall do; handlers that switch themselves, by an iter.Pull of their own,
// must not find it there.
func coroutineEnds(g unsafe.Pointer, argument uintptr) {
	leave := func() { leaveCoroutine(argument) }
	if coroFields.Coroexit != 0 {
		coroarg := (*unsafe.Pointer)(unsafe.Add(g, coroFields.Coroarg))
		coroexit := (*bool)(unsafe.Add(g, coroFields.Coroexit))
		c := *coroarg
		*coroarg, *coroexit = nil, false
		leave = func() {
			*coroarg, *coroexit = c, true
			leaveCoroutine(argument)
		}
	}
	if r := lookup(); r != nil {
		r.end(leave)
	}
	leave()
}

// callbackEnds: Go code called from C returns to C. If the thread is C's own, its goroutine is lent by the runtime, which lends it to
// other threads later, so for us it ends here. A callback within a goroutine that Go started ends nothing.
func callbackEnds() {
	if lookup() == nil {
		return
	}
	pcs := make([]uintptr, 16)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs)])
	for inCallback := false; ; {
		frame, more := frames.Next()
		if inCallback && frame.Function != "runtime.goexit" {
			return
		}
		inCallback = inCallback || frame.Function == "runtime.cgocallback"
		if !more {
			break
		}
	}
	if r := lookup(); r != nil {
		r.end(nil)
	}
}
