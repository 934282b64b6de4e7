//go:build linux && (amd64 || arm64) && !go1.23 && goexperiment.rangefunc

package exeunt

import "errors"

// findCorostart refuses: it is not known how coroutines of this experiment end.
func findCorostart() (uintptr, error) {
	return 0, errors.New("this program is built with GOEXPERIMENT=rangefunc, whose coroutines are not supported; those of Go 1.23 are")
}
