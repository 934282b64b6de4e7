//go:build amd64 || arm64

package exeunt

// findFoot returns how far the running goroutine's foot is from the base of its stack, or 0 if it is
// not found there, holding exitAddress.
func findFoot() (distance uintptr)
