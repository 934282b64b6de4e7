//go:build linux && (amd64 || arm64)

package exeunt

import (
	"fmt"
	"runtime"
	"sync/atomic"

	"exeunt.invalid/exeunt/internal/site"
)

// Ends that pass by the redirected calls
//
// A plugin has a copy of the runtime's code, in which nothing is redirected. Its code calls the
// copies of runtime.Goexit and runtime.goexit1, and goroutines that it starts return to its copy of
// runtime.goexit. But where the runtime takes the address of one of its functions, in the copies too,
// this is the function in the program. runtime.goexit0 is such a function: mcall calls it on the
// system's stack when a goroutine has ended. (runtime.corostart is another; so ends of coroutines are
// noticed by the redirected calls.) In programs with cgo, which alone can open plugins, goexit0's call
// of gdestroy is therefore redirected too. If the goroutine still has a record there, destroyHook
// clears its spare words, so that no other goroutine finds the record, and puts it on the list
// common.unnoticed. It can do no more, as it runs on the system's stack. After the next collection
// another goroutine takes the record over and ends.

// findDestroy finds the call by which runtime.goexit0 gives a goroutine's descriptor back. goexit1 is
// what runtime.Goexit calls.
func findDestroy(goexit1 uintptr) (in uintptr, call site.Ref, err error) {
	// In unoptimized builds the call leads to a wrapper with the same name.
	if behind, err := image.One(site.Call, goexit1, "runtime.goexit1"); err == nil {
		goexit1 = behind.Target
	}
	if in = near(goexit1, "runtime.goexit0"); in == 0 {
		return 0, call, fmt.Errorf("there is no runtime.goexit0 within %d bytes of runtime.goexit1", reach)
	}
	call, err = image.One(site.Call, in, "runtime.gdestroy")
	return in, call, err
}

// destroyHook is in hooks_*.s. It is not called from Go.
//
//lint:ignore U1000 its address is taken by assembly
func destroyHook()

func destroyHookAddress() uintptr

// A collection is an object to which nothing leads, so that its finalizer is called after each
// collection.
type collection struct{ _ *collection }

func watchCollections() { runtime.SetFinalizer(new(collection), collected) }

func collected(c *collection) {
	runtime.SetFinalizer(c, collected)
	for index := atomic.SwapUint32(&common.unnoticed, 0); index != 0; {
		r := &chunks[index/chunkRecords].Load().records[index%chunkRecords]
		index = uint32(r.running)
		go takeOver(r)
	}
}

// takeOver is the entry function of a goroutine that takes the place of one that has ended: it has
// that one's record, and returns to runtime.goexit. So handlers find the values.
func takeOver(r *record) {
	r.running = 0
	r.ending = Exited
	r.owner.Store(getg())
	setSpareWords(uint64(r.index))
}
