//go:build amd64 || arm64 || riscv64

package exeunt

//lint:file-ignore U1000 what is declared here without a body is for assembly, whose uses staticcheck cannot see

// slot.go says what a foot is, and where.

// armedFoot is the address in exitTrampoline that the foot of an armed goroutine holds.
var armedFoot uintptr

// trampolineStart is an address in exitTrampoline, behind its first instruction.
var trampolineStart uintptr

// writeFoot writes the foot and the words at the stack's base.
//
//go:noescape
func writeFoot(distance, word, index uintptr, s *sentinel)

// disarmFoot undoes writeFoot, and returns the sentinel. It returns nil if the stack is not armed.
func disarmFoot() *sentinel

// footIsOurs reports whether the running goroutine's stack is armed.
func footIsOurs() bool

// footRoom is how many bytes newproc1 leaves at the base of a stack, and the return address on amd64.
const footRoom = 40 + 8*isARM64
