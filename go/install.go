package exeunt

import (
	"fmt"
	"os"
	"runtime"
	"sync"
)

var installation struct {
	once sync.Once
	err  error
}

// Install makes this program notice the ends of goroutines. Only the first call does it; later calls
// return the same result.
//
// Functions that need it call Install, and panic with its error. Call it yourself to learn beforehand
// whether the package works, or to go on without it.
//
// Install can ask for a [Mode]. The program's mode is the first of these that there is: what it was
// linked with, by go build -ldflags='-X exeunt.invalid/exeunt.linkedMode=slot'; the argument of the
// first Install; the environment variable EXEUNT_MODE (code, slot or collected); the system's default. The later
// ones are ignored then. So the environment cannot bring code mode to a program that asks for slot mode.
// The error says so if another mode than the argument's is in force already, as where the program was
// linked with it, or a package variable was first. A program with cgo installs code mode when it
// starts, before it can call Install, unless it was linked with another mode or the variable has one.
//
// [Code] mode works on Linux only, on amd64 and arm64, [Slot] mode on every system, on amd64, arm64 and
// riscv64, and [Collected] mode everywhere. Where a mode fails, Install does not go over to another: ask
// for it.
//
// The error names what was found instead of the expected code or stack: in Code mode the function,
// and what it calls. The program is then unchanged. In Slot mode single goroutines may still be
// unable to use the package where Install succeeds, such as callbacks on threads of C (see
// [AtExit]).
func Install(ask ...Mode) error {
	installation.once.Do(func() {
		m, err := chooseMode(ask)
		if err == nil {
			err = installIn(m)
		}
		if err != nil {
			installation.err = fmt.Errorf("exeunt: goroutine exits cannot be redirected in this program (%s, %s/%s), and nothing was changed: %w",
				runtime.Version(), runtime.GOOS, runtime.GOARCH, err)
		}
	})
	if installation.err == nil && len(ask) > 0 && ask[0] != NoMode && ask[0] != InForce() {
		return fmt.Errorf("exeunt: %s mode is in force, and not %s mode", InForce(), ask[0])
	}
	return installation.err
}

// linkedMode is the mode that the program was linked to ask for, or "".
var linkedMode string

func chooseMode(ask []Mode) (Mode, error) {
	if linkedMode != "" {
		return modeNamed(linkedMode)
	}
	if len(ask) > 0 && ask[0] != NoMode {
		return ask[0], nil
	}
	if name := os.Getenv("EXEUNT_MODE"); name != "" {
		m, err := modeNamed(name)
		if err != nil {
			err = fmt.Errorf("EXEUNT_MODE: %w", err)
		}
		return m, err
	}
	return defaultMode, nil
}

func installIn(m Mode) (err error) {
	switch m {
	case Code:
		err = installCode()
	case Slot:
		err = installSlot()
	case Collected:
		err = installCollected()
	default:
		_, err = modeNamed(m.String())
	}
	if err == nil {
		modeInForce.Store(uint32(m))
	}
	return err
}

// In a program with cgo, a callback from a thread of C may be running when the exits are
// redirected. It has passed the original call, so its end would not be noticed. Such programs are
// therefore redirected when they start. Install keeps an error for later callers. Slot mode redirects
// nothing, and waits for the first use. (On Windows NumCgoCall counts system calls too.)
func init() {
	if noInstallAtInit || runtime.NumCgoCall() == 0 {
		return
	}
	if m, err := chooseMode(nil); err == nil && m == Code {
		_ = Install()
	}
}

// noInstallAtInit is set by tests that redirect later.
var noInstallAtInit bool
