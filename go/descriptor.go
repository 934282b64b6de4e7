package exeunt

import (
	"fmt"
	"reflect"
	"runtime"
	"sync"
	"unsafe"
)

// descriptorFields are the offsets, in a goroutine's descriptor (g), of two fields that do not change
// while the goroutine exists. 0 says that the field was not found; no field has this offset.
type descriptorFields struct {
	number  uintptr // of g.goid: the number in tracebacks
	creator uintptr // of g.gopc: the address after the call that a go statement makes
}

// descriptorSize is less than the size of g in Go 1.22 to 1.27 on 64-bit systems: 424 bytes and more
// (TestSizeof in src/runtime/sizeof_test.go).
const descriptorSize = 400

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
			for at := uintptr(8); g != 0 && at < descriptorSize; at += 8 {
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
