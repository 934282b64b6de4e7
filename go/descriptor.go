package exeunt

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
)

// descriptorFields are the offsets, in a goroutine's descriptor (g), of two fields that do not change
// while the goroutine exists. 0 says that the field was not found; no field has this offset.
type descriptorFields struct {
	number  uintptr // of g.goid: the number in tracebacks; on 32-bit systems its lower half
	creator uintptr // of g.gopc: the address after the call that a go statement makes
}

// descriptorSize is less than the size of g in Go 1.22 to 1.27 424 bytes and
// more, on 32-bit systems 240 (TestSizeof in src/runtime/sizeof_test.go).
const descriptorSize = 232 + (unsafe.Sizeof(uintptr(0))/8)*168

// numberAt is the offset of the number, which collected mode has found before any goroutine has a
// record. It is stored after all other variables of that mode, since goroutines that have not
// installed anything read values too.
var numberAt atomic.Uintptr

// findDescriptorFields searches the descriptors of three goroutines for what is known about them. A
// field is found if exactly one offset has the right word in all three.
var findDescriptorFields = sync.OnceValue(func() descriptorFields {
	numbers, creators := map[uintptr]int{}, map[uintptr]int{}
	const goroutines = 3
	for i := 0; i < goroutines; i++ {
		done := make(chan struct{})
		startOne(func() {
			defer close(done)
			number, creator := numberInTraceback(), reflect.ValueOf(startOne).Pointer()
			g := getg()
			for at := unsafe.Sizeof(g); g != 0 && at < descriptorSize; at += unsafe.Sizeof(g) {
				word := descriptorWord(g, at)
				if word == number {
					numbers[at]++
				}
				if f := runtime.FuncForPC(word); f != nil && f.Entry() == creator {
					creators[at]++
				}
			}
		})
		<-done
	}
	only := func(found map[uintptr]int) (offset uintptr) {
		for at, times := range found {
			if times == goroutines {
				if offset != 0 {
					return 0
				}
				offset = at
			}
		}
		return offset
	}
	return descriptorFields{only(numbers), only(creators)}
})

// startOne has a go statement. It is not inlined, so that an address in it is known to be its own.
//
//go:noinline
func startOne(f func()) { go f() }

// numberInTraceback is the running goroutine's.
func numberInTraceback() (number uintptr) {
	var buffer [64]byte
	line := string(buffer[:runtime.Stack(buffer[:], false)])
	if _, err := fmt.Sscanf(line, "goroutine %d ", &number); err != nil {
		return ^uintptr(0) // no goroutine has it
	}
	return number
}

// descriptorWord reads a word of a descriptor. The race detector must not observe it: descriptors are
// reused, in an order that only the runtime synchronizes.
//
//go:norace
func descriptorWord(g, offset uintptr) uintptr {
	return *(*uintptr)(unsafe.Add(*(*unsafe.Pointer)(unsafe.Pointer(&g)), offset))
}

// descriptorHalf reads 32 bits of a descriptor.
//
//go:norace
func descriptorHalf(g, offset uintptr) uint32 {
	return *(*uint32)(unsafe.Add(*(*unsafe.Pointer)(unsafe.Pointer(&g)), offset))
}

// ownNumber is the running goroutine's in tracebacks, or 0.
func ownNumber(g uintptr) uintptr {
	if at := findDescriptorFields().number; at != 0 {
		return descriptorWord(g, at)
	}
	return 0
}

var errCallback = errors.New("exeunt: this mode cannot notice the end of a callback on a thread of C, so this callback cannot use the package")

// isCallbackOfC reports whether the running goroutine is that of a callback on a thread of C. Such a thread
// has one descriptor for all its callbacks, and no go statement made it (oneNewExtraM in
// src/runtime/proc.go). To walk a stack takes time, so only one without a creator is walked.
func isCallbackOfC(g uintptr) bool {
	creator := findDescriptorFields().creator
	if creator != 0 && descriptorWord(g, creator) != 0 || runtime.NumCgoCall() == 0 {
		return false
	}
	_, before := outermost()
	return before == "runtime.cgocallback"
}
