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

// Install redirects goroutine exits in this program, once. The first call of anything that needs it does the same, and panics with this
// error; a program that wants to know beforehand, or to go on without, calls Install.
//
// The error says what was found instead of what is known: which function, and what it calls. The program is then as it was.
func Install() error {
	installation.once.Do(func() {
		if err := install(); err != nil {
			installation.err = fmt.Errorf("exeunt: goroutine exits cannot be redirected in this program (%s, %s/%s), and nothing was changed: %w",
				runtime.Version(), runtime.GOOS, runtime.GOARCH, err)
		}
	})
	return installation.err
}

// With cgo a callback from a thread of C may be running when the first call is made: one that came by the call as it was, so that its end
// would pass unnoticed. Therefore such programs are redirected at once. An error is kept for who calls Install, or needs it.
func init() {
	if !noInstallAtInit && runtime.NumCgoCall() > 0 {
		_ = Install()
	}
}

// noInstallAtInit lets a test come before that.
var noInstallAtInit bool
