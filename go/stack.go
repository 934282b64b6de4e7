//go:build amd64 || arm64 || riscv64

package exeunt

import (
	"hash/maphash"
	"unsafe"
)

//lint:file-ignore U1000 what is declared here without a body is for assembly, whose uses staticcheck cannot see

// How a goroutine's record is found
//
// newproc1 (src/runtime/proc.go, the same from Go 1.22 to 1.27) leaves spare words at the base of
// every goroutine's stack, "extra space in case of reads slightly beyond frame". oneNewExtraM does
// the same for the goroutines that run callbacks from C:
//
//	 g.stack.hi ─┐
//	             │  index of the record            hi-8
//	             │  (g + index) ^ secret           hi-16: the check word
//	             │  see recoveryHook               hi-24, hi-32
//	             │  not used                       only on arm64
//	             │  return address: goexit+1       hi-40 (arm64: in the link register)
//	             │  frame of the entry function
//
// copystack moves these words along when a stack grows or shrinks. The garbage collector and
// tracebacks do not read them. Stacks are reused without being cleared, so the words can hold
// anything. A hook compares the check word; on a goroutine without a record it is equal only by
// accident, and then lookup finds no record. A read, in assembly, uses the index only:
//
//   - the index must be less than the size of the table;
//   - the table must have a chunk for it;
//   - the record's owner must be this goroutine. A goroutine owns at most one record, so this test
//     alone is decisive. A stale index, from an earlier goroutine with the same descriptor, fails
//     it.

// commonState is what the assembly reads at every exit, and where a read finds no record. It is one
// struct, so that it fits into one or two cache lines.
type commonState struct {
	secret uint64 // random, so that leftover data does not pass as a check word
	// The targets of the redirected calls. They are set before the calls are redirected, and do not
	// change afterwards.
	returnTarget, goexitTarget, processTarget, coroutineTarget, callbackTarget uintptr
	// mapped counts the goroutines whose records are in the map. While it is not 0, a read that
	// finds no record calls slow.
	mapped uint32
	slow   func(*localBase) unsafe.Pointer
	// The targets of redirected calls that are made on the system's stack.
	recoveryTarget, destroyTarget uintptr
	// unnoticed is the first of a list of records: an index, and 0 if there is none. The next one is
	// in the record's running. See unnoticed_linux.go.
	unnoticed uint32
}

var common = commonState{
	secret: func() uint64 {
		var h maphash.Hash
		return h.Sum64() | 1
	}(),
}

// setSpareWords writes the index and the check word; clearSpareWords clears both.
//
//go:noescape
func setSpareWords(index uint64)
func clearSpareWords()

// recoveredTo returns what recoveryHook has stored since setSpareWords, or 0.
func recoveredTo() uintptr

// exitAddress is the address in runtime.goexit to which entry functions return. Install sets it, also
// where it fails afterwards. It does not change once it is set.
var exitAddress uintptr

// getg returns the address of the running goroutine's descriptor. Descriptors are never freed.
//
//go:noescape
func getg() uintptr
