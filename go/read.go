//go:build amd64 || arm64 || riscv64

package exeunt

import "unsafe"

//lint:file-ignore U1000 what is declared here without a body is for assembly, whose uses staticcheck cannot see

// The assembly computes a record's address from its index. These arrays have a length of 0 only if
// the sizes are those that it assumes; otherwise this does not compile.
var (
	_ [recordSize - unsafe.Sizeof(record{})]byte
	_ [unsafe.Sizeof(record{}) - recordSize]byte
	_ [recordSize - 1<<8]byte
	_ [1<<8 - recordSize]byte
	_ [chunkRecords - 1<<8]byte
	_ [1<<8 - chunkRecords]byte
	_ [maxChunks*chunkRecords - 1<<21]byte
	_ [1<<21 - maxChunks*chunkRecords]byte
)

// value returns the address of the running goroutine's value of a local, or of the zero value.
// current returns the running goroutine's record in the table, or nil.
//
// Both are implemented in assembly, as valueInRegisters and currentInRegisters, with the calling
// convention of compiled Go code (src/cmd/compile/abi-internal.md, unchanged since Go 1.17 on amd64
// and 1.18 on arm64): argument and result in the first register, g in its own. A function declared
// in assembly would be called through a wrapper that moves both to and from the stack, which makes
// a read take half as long again; a function value is called without one. See read_linux_*.go for
// how value and current call them.
var (
	valueByAddress   = *(*func(*localBase) unsafe.Pointer)(unsafe.Pointer(&valueCodeAt))
	currentByAddress = *(*func() *record)(unsafe.Pointer(&currentCodeAt))

	// A function value is the address of a word that holds the code's address.
	valueCodeAt, currentCodeAt = &valueCode, &currentCode
	valueCode, currentCode     = registerFunctions()
)

func valueInRegisters()
func currentInRegisters()
func valueInSlotMode()
func currentInSlotMode()

//go:noescape
func registerFunctions() (value, current uintptr)

// slotFunctions returns the addresses of the functions that take their places in slot mode.
//
//go:noescape
func slotFunctions() (value, current uintptr)
