//go:build !go1.23

package runtime

import _ "unsafe" // for go:linkname

// exeuntAtProcessExit has f called when the process ends by os.Exit or by a return from main.main,
// on the goroutine that has done so.
//
//go:linkname exeuntAtProcessExit
func exeuntAtProcessExit(f func()) { addExitHook(f, true) }
