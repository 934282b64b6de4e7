//go:build !(amd64 || arm64 || riscv64)

package exeunt

// Processors without a read path in assembly, where every record is in the map.

func setSpareWords(index uint64) {}
func clearSpareWords()           {}

var common struct{ mapped uint32 }

// getg returns the address of the running goroutine's descriptor. Descriptors are never freed.
//
//go:noescape
func getg() uintptr
