//go:build linux && (amd64 || arm64)

package exeunt

import (
	"os"
	"runtime"
	"strings"
	"unsafe"

	"exeunt.invalid/exeunt/internal/site"
)

//lint:file-ignore U1000 called by assembly, whose uses staticcheck cannot see

// coroFields are the offsets in g of the fields that drainCoroutine has to save. Both are 0 where
// runtime.coroexit is not inlined, or where there are no coroutines.
var coroFields site.Fields

// The hooks (hooks_*.s) call the following functions on the goroutine that is ending, if it may
// have a record.

// drainGoroutine is called when a goroutine ends by return.
func drainGoroutine() {
	if r := lookup(); r != nil {
		ending := Returned
		switch {
		case r.ending == Exited: // see takeOver
			ending = Exited
		case hasRecovered():
			ending = Recovered
		}
		r.end(ending, callReturnTarget)
	}
}

// hasRecovered reports whether the entry function, which has returned, did so because a deferred
// function of it has recovered a panic. Then no frame nearer to the stack's base has done so, and it has
// returned to runtime.goexit. In go f(x) the entry function is a wrapper, which the compiler makes for one go
// statement, and f returns to it.
func hasRecovered() bool {
	to := uintptr(0)
	if !useMap {
		to = recoveredTo()
	}
	if to == 0 || to == exitAddress {
		return to != 0
	}
	name, _ := image.Func(to)
	return strings.Contains(name, ".gowrap")
}

// drainGoexit is called when a goroutine ends by runtime.Goexit.
func drainGoexit() {
	if r := lookup(); r != nil {
		r.end(Exited, callReturnTarget)
	}
}

// drainProcess is called when main.main has returned or os.Exit is called. Only the running
// goroutine is drained. The others never run again, and a handler runs only on its own goroutine.
func drainProcess(code int) {
	if r := lookup(); r != nil {
		ending := ProcessExit
		if calledFirst("runtime.main", "os.Exit") == "runtime.main" {
			ending = MainReturned
		}
		r.end(ending, func() { os.Exit(code) })
	}
}

// drainCoroutine is called when the function given to iter.Pull has ended. argument is the
// redirected call's. If that call is mcall(coroswitch_m), the runtime has already stored in g what
// the switch has to do. Handlers that switch themselves, by an iter.Pull of their own, must not
// find it there.
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
		// A deferred function of runtime.corostart makes the redirected call.
		ending := Returned
		if calledFirst("runtime.corostart", "runtime.Goexit") == "runtime.Goexit" {
			ending = Exited
		}
		r.end(ending, leave)
	}
	leave()
}

// setCoroFields sets g.coroarg and g.coroexit, and returns the previous g.coroarg. The race
// detector must not observe it: descriptors are reused, in an order that only the runtime
// synchronizes.
//
//go:norace
func setCoroFields(g, c unsafe.Pointer, exit bool) (before unsafe.Pointer) {
	coroarg := (*unsafe.Pointer)(unsafe.Add(g, coroFields.Coroarg))
	before = *coroarg
	*coroarg = c
	*(*bool)(unsafe.Add(g, coroFields.Coroexit)) = exit
	return before
}

// drainCallback is called when Go code that C has called returns to C. On a thread of C, the
// goroutine is one that the runtime lends to one such thread after another, so for this package it
// ends here. A callback on a goroutine that Go has started ends nothing.
func drainCallback() {
	if lookup() != nil && inOutermostCallback() {
		lookup().end(Returned, nil)
	}
}

// drainStaleCallback is called when C calls Go. On a thread of C, the goroutine normally has no
// record then. The exception is a callback that came while the packages of the program were
// initialized, as happens in libraries for C: it has passed the original call and returned
// unnoticed. It is drained now, so that the new callback does not find its values.
func drainStaleCallback() {
	if lookup() != nil && inOutermostCallback() {
		lookup().end(Returned, nil)
	}
}

// inOutermostCallback reports whether the innermost callback from C has no outer frames, so that C
// has created this thread.
func inOutermostCallback() bool {
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

// The hooks, in hooks_*.s. They are not called from Go.

func returnHook()
func jumpToReturnTarget()
func goexitHook()
func processHook()
func coroutineHook()
func callbackHook()
func recoveryHook()
func callbackHookSlow()
func returnHookSlow()
func goexitHookSlow()
func processHookSlow()
func coroutineHookSlow()

// hookAddresses returns the addresses of the hooks' first instructions (a Go function value would
// lead to a wrapper). If spareWords is set these are the hooks that test the spare words, otherwise
// those that always search for a record.
//
//go:noescape
func hookAddresses(spareWords bool) (atReturn, atGoexit, atProcessExit, atCoroutineExit, atCallback, atRecovery uintptr)

// callReturnTarget makes the redirected call of runtime.goexit1. It does not return.
func callReturnTarget()

// callCoroutineTarget makes the redirected call of runtime.coroexit or runtime.mcall with its
// original argument. It does not return.
//
//go:noescape
func callCoroutineTarget(argument uintptr)
