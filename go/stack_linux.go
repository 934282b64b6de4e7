//go:build linux && (amd64 || arm64)

package exeunt

import (
	"hash/maphash"
	"unsafe"
)

//lint:file-ignore U1000 what is declared here without a body is for assembly, whose uses staticcheck cannot see

// How a goroutine's record is found
//
// newproc1 (src/runtime/proc.go, the same from Go 1.22 to 1.27) leaves spare words at the top of every goroutine's stack, "extra
// space in case of reads slightly beyond frame", and oneNewExtraM does so for the goroutines that run callbacks from C:
//
//	 g.stack.hi ─┐
//	             │  index of the record            hi-8
//	             │  (g + index) ^ secret           hi-16
//	             │  not used                       hi-24, hi-32 (arm64: and more)
//	             │  return address: goexit+1       hi-40 (arm64: in the link register)
//	             │  frame of the entry function
//
// copystack moves these words along when a stack grows or shrinks, and neither the garbage collector nor tracebacks look at them.
// They can hold rubbish, since stacks are reused without being cleared. An end looks at the check word, which is that of a goroutine without a
// record by accident only, and then it is looked at more closely, in Go. A read, in assembly, looks at the index:
//
//   - it must be one that there is room for;
//   - there must be a chunk for it;
//   - the record's owner must be this goroutine. A goroutine owns at most one record, so this alone decides; a stale index from an
//     earlier life of the same descriptor fails here.

// common is what the assembly reads at every exit, and where a read finds no record: together, so that it is in one or two cache lines.
type commonState struct {
	secret uint64 // what rubbish does not know
	// Where the redirected calls led. Set before they are redirected, and never again.
	returnTarget, goexitTarget, processTarget, coroutineTarget, callbackTarget uintptr
	// mapped counts the goroutines whose records are in the map: then a miss is worth another look, by slow.
	mapped uint32
	slow   func(*localBase) unsafe.Pointer
}

var common = commonState{
	secret: func() uint64 {
		var h maphash.Hash
		return h.Sum64() | 1
	}(),
}

// mark writes the spare words; clearSpareWords clears them.
//
//go:noescape
func setSpareWords(index uint64)
func clearSpareWords()

// getg is the address of the running goroutine's descriptor. Descriptors are never freed.
//
//go:noescape
func getg() uintptr
