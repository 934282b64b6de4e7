//go:build amd64 || arm64 || riscv64

package exeunt

import (
	"fmt"
	"runtime"
	"unsafe"
)

// A probeResult is what a new goroutine has found out about its own stack.
type probeResult struct {
	goexit uintptr
	err    error
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
	// The return address must be the one that the runtime recognizes. The spare words must be above
	// everything that the entry function and runtime.goexit may use; if they are not, the map is
	// used.
	pushed := uintptr(0)
	if runtime.GOARCH == "amd64" {
		pushed = 8 // the return address
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
	if f := runtime.FuncForPC(pcs[n-1]); f == nil || f.Name() != "runtime.goexit" {
		seen.err = fmt.Errorf("the outermost function of a goroutine is %q, and not runtime.goexit", f.Name())
	} else {
		seen.goexit = f.Entry()
	}
	probeResults <- seen
}

//go:noescape
func probeAddress() uintptr

// probeEntry is the entry function of the goroutine that probe starts.
//
//lint:ignore U1000 its address is taken by assembly
func probeEntry()

var probeStackPointer, probeReturnAddress, probeStackBase uintptr
