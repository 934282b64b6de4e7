//go:build amd64 || arm64 || riscv64

package exeunt

import (
	"reflect"
	"sync/atomic"
)

func init() { common.slow = slowValue }

// readByNumber is called when collected mode is installed.
func readByNumber() {
	atomic.StoreUintptr(&valueCode, reflect.ValueOf(valueByNumber).Pointer())
	atomic.StoreUintptr(&currentCode, reflect.ValueOf(currentByNumber).Pointer())
}
