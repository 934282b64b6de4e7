//go:build exercise

package main

// Exercise: is this the goroutine of main, or one that a go statement has made? Say so by the
// outermost functions of its stack. (A goroutine that `go` has made ends in runtime.goexit, and so
// does the main one. Look at the frame before that.)
func isMain() bool {
	return true // yours
}
