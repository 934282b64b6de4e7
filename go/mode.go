package exeunt

import (
	"fmt"
	"sync/atomic"
)

// A Mode is a way in which this package notices the ends of goroutines. [Install] can ask for one,
// and [InForce] returns the one that the program uses.
type Mode uint8

const (
	// NoMode: the package is not installed, or cannot be.
	NoMode Mode = iota
	// Code: calls in the runtime's code are redirected. Every end is noticed when it happens. This
	// is the default on linux/amd64 and linux/arm64, and possible only there.
	Code
	// Slot: no code is changed. The first use on a goroutine replaces the return address at its
	// foot, the word to which its entry function returns. An end by return, also after a recovered
	// panic, is noticed when it happens. An end by [runtime.Goexit] and that of a coroutine
	// ([iter.Pull]) are noticed by the garbage collector; the handlers run then, on another
	// goroutine that has the values, or are lost if the process ends before. The return of
	// main.main and [os.Exit] are not noticed. This is the default on the other systems, on amd64
	// and arm64, and on riscv64. The package's description lists all that differs.
	Slot
	// Collected: neither code nor stacks are changed. A goroutine is known by its descriptor and its
	// number in tracebacks. Every end is noticed late: by the garbage collector, as ends by
	// runtime.Goexit are in Slot mode. The exception is the end of a goroutine that [Go] has started.
	// The return of main.main and os.Exit are not noticed. This is the default on processors for
	// which there is no other mode, and possible everywhere.
	Collected
)

func (m Mode) String() string {
	switch m {
	case NoMode:
		return "none"
	case Code:
		return "code"
	case Slot:
		return "slot"
	case Collected:
		return "collected"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// modeInForce is set once, before any goroutine has a record.
var modeInForce atomic.Uint32

// InForce returns the mode that the program uses. It is [NoMode] until [Install] has succeeded,
// which the first use of most functions calls.
func InForce() Mode { return Mode(modeInForce.Load()) }

func inSlotMode() bool { return InForce() == Slot }

func inCollectedMode() bool { return InForce() == Collected }

// modeNamed returns the mode with this name.
func modeNamed(name string) (Mode, error) {
	for _, m := range []Mode{Code, Slot, Collected} {
		if m.String() == name {
			return m, nil
		}
	}
	return NoMode, fmt.Errorf("there is no mode %q (write code, slot or collected)", name)
}
