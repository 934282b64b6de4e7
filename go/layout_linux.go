//go:build linux && (amd64 || arm64)

package exeunt

import "unsafe"

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

func init() { common.slow = slowValue }
