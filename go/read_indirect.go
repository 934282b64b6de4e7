//go:build arm64 || riscv64 || (amd64 && !linux)

package exeunt

// A read stays an indirect call where no code is changed, and on arm64. A function there begins with
// an instruction that must not be replaced while other threads may be running it.
var value, current = valueByAddress, currentByAddress
