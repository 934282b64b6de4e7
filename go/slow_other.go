//go:build !(amd64 || arm64 || riscv64)

package exeunt

import "unsafe"

func value(l *localBase) unsafe.Pointer { return slowValue(l) }
