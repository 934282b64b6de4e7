//go:build linux && (amd64 || arm64)

package exeunt

import "unsafe"

//lint:file-ignore U1000 what is declared here without a body is for assembly, whose uses staticcheck cannot see

// The assembly computes a record's address from its index: each pair of arrays is empty only if the sizes are exactly these.
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

// value is the address of the running goroutine's value of a local, or of the zero value.
// current is the running goroutine's record in the table, or nil.
//
// Both are assembly, valueInRegisters and currentInRegisters, that follows the calling convention of compiled code: argument and result in the
// first register, and g in its own. It is Go's internal one (src/cmd/compile/abi-internal.md), the same from Go 1.17 (amd64) and 1.18 (arm64)
// on. A function declared in assembly would be called through a wrapper that moves both to and from the stack, which would cost a read half as
// much again; a function value is called directly. How value and current call them is in read_linux_*.go.
var (
	valueByAddress   = *(*func(*localBase) unsafe.Pointer)(unsafe.Pointer(&valueCodeAt))
	currentByAddress = *(*func() *record)(unsafe.Pointer(&currentCodeAt))

	// A function value is the address of a word that holds the code's address.
	valueCodeAt, currentCodeAt = &valueCode, &currentCode
	valueCode, currentCode     = registerFunctions()
)

func valueInRegisters()
func currentInRegisters()

//go:noescape
func registerFunctions() (value, current uintptr)
