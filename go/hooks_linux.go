//go:build linux && (amd64 || arm64)

package exeunt

import (
	"os"
	"runtime"
	"unsafe"

	"exeunt.invalid/exeunt/internal/site"
)

//lint:file-ignore U1000 called by assembly, whose uses staticcheck cannot see

// The offsets in g that drainCoroutine has to save; both 0 where runtime.coroexit isn't inlined, or there are no coroutines.
var coroFields site.Fields

// The redirected calls come here through redirect_*.s, on the goroutine that is ending, if it may have a record.

// drainGoroutine: by return, or by runtime.Goexit.
func drainGoroutine() {
	if r := lookup(); r != nil {
		r.end(callReturnTarget)
	}
}

// drainProcess: main.main has returned, or somebody called os.Exit. Only this goroutine is ending; the others will never run again, and
// handlers run nowhere but on their own goroutine.
func drainProcess(code int) {
	if r := lookup(); r != nil {
		r.end(func() { os.Exit(code) })
	}
}

// drainCoroutine: the function given to iter.Pull has ended. argument is for the redirected call. Where that call is mcall(coroswitch_m), the
// runtime has already noted in g what the switch shall do; handlers that switch themselves, by an iter.Pull of their own,
// must not find it there.
func drainCoroutine(g unsafe.Pointer, argument uintptr) {
	leave := func() { callCoroutineTarget(argument) }
	if coroFields.Coroexit != 0 {
		c := setCoroFields(g, nil, false)
		leave = func() {
			setCoroFields(g, c, true)
			callCoroutineTarget(argument)
		}
	}
	if r := lookup(); r != nil {
		r.end(leave)
	}
	leave()
}

// setCoroFields sets g.coroarg, which it returns as it was, and g.coroexit. The race detector must not see that: descriptors are used again and again,
// in an order that only the runtime knows.
//
//go:norace
func setCoroFields(g, c unsafe.Pointer, exit bool) (before unsafe.Pointer) {
	coroarg := (*unsafe.Pointer)(unsafe.Add(g, coroFields.Coroarg))
	before = *coroarg
	*coroarg = c
	*(*bool)(unsafe.Add(g, coroFields.Coroexit)) = exit
	return before
}

// drainCallback: Go code called from C returns to C. If the thread is C's own, its goroutine is lent by the runtime, which lends it to
// other threads later, so for us it ends here. A callback within a goroutine that Go started ends nothing.
func drainCallback() {
	if lookup() != nil && onForeignThread() {
		lookup().end(nil)
	}
}

// drainStaleCallback: C calls Go. On a lent goroutine nothing can be left from before, with one exception: a callback that came
// while the program's packages were being initialized, which happens in libraries for C, has passed through the call as it was, and returned
// unnoticed. It ends now, so that nobody finds its values.
func drainStaleCallback() {
	if lookup() != nil && onForeignThread() {
		lookup().end(nil)
	}
}

// onForeignThread tells whether beneath the innermost callback from C there is nothing.
func onForeignThread() bool {
	pcs := make([]uintptr, 16)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs)])
	for inCallback := false; ; {
		frame, more := frames.Next()
		if inCallback && frame.Function != "runtime.goexit" {
			return false
		}
		inCallback = inCallback || frame.Function == "runtime.cgocallback"
		if !more {
			return inCallback
		}
	}
}

// The code that redirected calls lead to; in redirect_*.s. Nobody calls it from Go.

func returnHook()
func jumpToReturnTarget()
func goexitHook()
func processHook()
func coroutineHook()
func callbackHook()
func callbackHookSlow()
func returnHookSlow()
func goexitHookSlow()
func processHookSlow()
func coroutineHookSlow()

// hookAddresses are their first instructions (a Go function value would lead to a wrapper): of those that test the spare words, or where these cannot
// be used, of those that always look for a record; and probeEntry's.
//
//go:noescape
func hookAddresses(spareWords bool) (atReturn, atGoexit, atProcessExit, atCoroutineExit, atCallback uintptr)

// callReturnTarget makes the redirected call of runtime.goexit1; it does not return.
func callReturnTarget()

// callCoroutineTarget makes the redirected call of runtime.coroexit or runtime.mcall with its original argument; it does not return.
//
//go:noescape
func callCoroutineTarget(argument uintptr)
