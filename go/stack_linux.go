//go:build linux && (amd64 || arm64)

package exeunt

import "hash/maphash"

// How a goroutine's record is found
//
// newproc1 (src/runtime/proc.go, the same from Go 1.22 to 1.27) leaves spare words at the top of every goroutine's stack, "extra
// space in case of reads slightly beyond frame", and oneNewExtraM does so for the goroutines that run callbacks from C:
//
//	 g.stack.hi ─┐
//	             │  index of the record            hi-8
//	             │  g ^ secret ^ index             hi-16
//	             │  not used                       hi-24, hi-32 (arm64: and more)
//	             │  return address: goexit+1       hi-40 (arm64: in the link register)
//	             │  frame of the entry function
//
// copystack moves these words along when a stack grows or shrinks, and neither the garbage collector nor tracebacks look at them.
// They can hold rubbish, since stacks are reused without being cleared, so three things are checked:
//
//   - the check word, which also tells another goroutine's index from one's own;
//   - that there is a chunk for this index;
//   - that the record's owner is this goroutine. A goroutine owns at most one record, so this alone decides; a stale pair of words
//     from an earlier life of the same descriptor fails here.

// secret is what rubbish does not know.
var secret = func() uint64 {
	var h maphash.Hash
	return h.Sum64() | 1
}()

// current is the running goroutine's record in the table, or nil.
//
//go:noescape
func current() *record

// mark writes the spare words; unmark clears them.
//
//go:noescape
func mark(index uint64)
func unmark()

// getg is the address of the running goroutine's descriptor. Descriptors are never freed.
//
//go:noescape
func getg() uintptr

// The code that redirected calls lead to; in redirect_*.s. Nobody calls it from Go.

func endByReturn()
func endByGoexit()
func endOfProcess()
func endOfCoroutine()
func endOfCallback()

func drainEndByReturn()
func drainEndByGoexit()
func drainEndOfProcess()
func drainEndOfCoroutine()

// entryPoints are the first instructions of the five functions. (A Go function value would be that of a wrapper.)
//
//go:noescape
func entryPoints() (byReturn, byGoexit, ofProcess, ofCoroutine, ofCallback, probe uintptr)

// leaveCoroutine makes the redirected call of runtime.coroexit or runtime.mcall with its original argument; it does not return.
//
//go:noescape
func leaveCoroutine(argument uintptr)

// Where the redirected calls led, in the order of the functions above. Set before the calls are redirected, and never again.
var nextByReturn, nextByGoexit, nextOfProcess, nextOfCoroutine, nextOfCallback uintptr

// probeEntry is the entry function of a goroutine that looks at its own stack; see probe in redirect_linux.go.
func probeEntry()

var probeStackPointer, probeReturnAddress, probeStackTop uintptr
