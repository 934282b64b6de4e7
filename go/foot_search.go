//go:build riscv64

package exeunt

// findFoot returns how far the running goroutine's foot is from the base of its stack, or 0 if it is
// not found there, holding exitAddress.
//
// Frames have no pointers to each other here, and other words of the stack may be exitAddress too:
// left behind by an earlier goroutine whose entry function had a smaller frame, or in a buffer of
// runtime.Callers. So each such word is replaced in turn, from the base on, and the runtime's own
// tables say which one is the foot: then the stack no longer ends with runtime.goexit. A word that is
// none gets its value back, which nobody has read meanwhile: no other goroutine uses this stack.
func findFoot() (distance uintptr) {
	setBaseWord(32, 0) // the argument of exitTrampoline, which the collector may read from here on
	for distance := uintptr(48); distance < stackUsed(); distance += 8 {
		if baseWord(distance) != exitAddress {
			continue
		}
		setBaseWord(distance, trampolineStart)
		last, _ := outermost()
		setBaseWord(distance, exitAddress)
		if last != "runtime.goexit" {
			return distance
		}
	}
	return 0
}

// stackUsed returns how much of the running goroutine's stack is in use. The words at its base are named by
// their distance from it, since a stack moves.
func stackUsed() uintptr

func baseWord(distance uintptr) uintptr

func setBaseWord(distance, word uintptr)
