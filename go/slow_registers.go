//go:build amd64 || arm64 || riscv64

package exeunt

func init() { common.slow = slowValue }
