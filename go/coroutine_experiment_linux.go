//go:build linux && (amd64 || arm64) && !go1.23 && goexperiment.rangefunc

package exeunt

import "errors"

// corostart: the experiment's coroutines end in a way that nobody has verified.
func findCorostart() (uintptr, error) {
	return 0, errors.New("this program is built with GOEXPERIMENT=rangefunc, whose coroutines are not known here; Go 1.23's are")
}
