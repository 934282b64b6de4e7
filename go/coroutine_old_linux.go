//go:build linux && (amd64 || arm64) && !go1.23 && !goexperiment.rangefunc

package exeunt

// findCorostart finds nothing: before Go 1.23 a program cannot start a coroutine.
func findCorostart() (uintptr, error) { return 0, nil }
