package exeunt

import "fmt"

// checkFoot returns an error if the running goroutine's entry function does not return to the
// runtime.goexit that has been redirected. A plugin has a copy of the runtime's code, and goroutines
// that code of the plugin starts return to that.
func checkFoot() error {
	if useMap {
		return nil // where the return address is, is then not known
	}
	foot := returnAddress()
	if foot == exitAddress {
		return nil
	}
	// While the goroutine ends, the word holds the return address of the hook's call.
	name, entry := image.Func(foot)
	if entry == entryOf(exitAddress) {
		return nil
	}
	return fmt.Errorf("exeunt: the end of this goroutine would not be noticed: its entry function returns to %#x (%s), and not to %#x: was it started by a plugin?",
		foot, name, exitAddress)
}

// returnAddress returns the word where newproc1 has written the entry function's return address. See
// stack.go.
func returnAddress() uintptr
