//go:build linux && (amd64 || arm64) && !go1.23 && !goexperiment.rangefunc

package exeunt

// corostart: before Go 1.23 nothing that a program can reach starts a coroutine.
func findCorostart() (uintptr, error) { return 0, nil }
