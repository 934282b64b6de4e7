//go:build linux && (amd64 || arm64)

package exeunt

import (
	"fmt"
	"runtime"
	"unsafe"
)

// A probeResult is what a new goroutine has found out about its own stack.
type probeResult struct {
	goexit, corostart uintptr
	err               error
}

var probeResults chan probeResult

// probe starts a goroutine whose entry function is assembly. It notes where a new stack begins, and
// continues in Go, in probeBody.
func probe() (probeResult, error) {
	entry := probeAddress()
	probeResults = make(chan probeResult, 1)
	code := &entry
	// A function value is the address of a word that holds the code's address.
	run := *(*func())(unsafe.Pointer(&code))
	go run()
	seen := <-probeResults
	if seen.err != nil {
		return seen, seen.err
	}
	if mainEntry == 0 {
		return seen, fmt.Errorf("this package was initialized by %s and not by runtime.main: is it in a plugin?", initializedBy)
	}
	// The return address must be the one that the runtime recognizes. The spare words must be above
	// everything that the entry function and runtime.goexit may use; if they are not, the map is
	// used.
	pushed := uintptr(0)
	if runtime.GOARCH == "amd64" {
		pushed = 8 // the return address
	}
	quantum := uintptr(1)
	if runtime.GOARCH == "arm64" {
		quantum = 4
	}
	if probeReturnAddress != seen.goexit+quantum {
		return seen, fmt.Errorf("goroutines return to %#x, and not to runtime.goexit+%d", probeReturnAddress, quantum)
	}
	if room := probeStackBase - (probeStackPointer + pushed); room < 32 || room > 128 || forceMap {
		useMap = true
	}
	return seen, nil
}

//lint:ignore U1000 probeEntry, in assembly, goes on here
func probeBody() {
	var seen probeResult
	pcs := make([]uintptr, 64)
	n := runtime.Callers(0, pcs)
	name, entry := image.Func(pcs[n-1])
	if name != "runtime.goexit" {
		seen.err = fmt.Errorf("the outermost function of a goroutine is %q, and not runtime.goexit", name)
	} else if seen.goexit = entry; true {
		seen.corostart, seen.err = findCorostart()
	}
	probeResults <- seen
}

// mainEntry is the address of runtime.main, which is found while it initializes packages.
var mainEntry, initializedBy = func() (entry uintptr, outermost string) {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs)])
	for {
		frame, more := frames.Next()
		if frame.Function == "runtime.main" {
			entry = frame.Entry
		}
		if frame.Function != "runtime.goexit" {
			outermost = frame.Function
		}
		if !more {
			return entry, outermost
		}
	}
}()

//go:noescape
func probeAddress() uintptr

// probeEntry is the entry function of the goroutine that probe starts.
//
//lint:ignore U1000 its address is taken by assembly
func probeEntry()

var probeStackPointer, probeReturnAddress, probeStackBase uintptr
