// Command plugin is built as a plugin.
package main

import "exeunt.invalid/exeunt"

// Register registers f on the running goroutine, which the host has started.
func Register(f func()) { exeunt.AtExit(f) }

// Start registers a handler on a goroutine that it starts, and returns the value with which that
// panics.
func Start() any {
	result := make(chan any)
	go func() {
		defer func() { result <- recover() }()
		exeunt.AtExit(func() {})
	}()
	return <-result
}

func main() {}
