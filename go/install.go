package exeunt

import (
	"fmt"
	"runtime"
	"sync"
)

var installation struct {
	once sync.Once
	err  error
}

// Install redirects the exits of goroutines in this program. Only the first call does it; later
// calls return the same result.
//
// Functions that need the redirection call Install, and panic with its error. Call it yourself to
// learn beforehand whether the package works, or to go on without it.
//
// The error names what was found instead of the expected code: the function, and what it calls. The
// program is then unchanged.
func Install() error {
	installation.once.Do(func() {
		if err := install(); err != nil {
			installation.err = fmt.Errorf("exeunt: goroutine exits cannot be redirected in this program (%s, %s/%s), and nothing was changed: %w",
				runtime.Version(), runtime.GOOS, runtime.GOARCH, err)
		}
	})
	return installation.err
}

// In a program with cgo, a callback from a thread of C may be running when the exits are
// redirected. It has passed the original call, so its end would not be noticed. Such programs are
// therefore redirected when they start. Install keeps an error for later callers.
func init() {
	if !noInstallAtInit && runtime.NumCgoCall() > 0 {
		_ = Install()
	}
}

// noInstallAtInit is set by tests that redirect later.
var noInstallAtInit bool
