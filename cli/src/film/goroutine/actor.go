// The filmed program: one goroutine uses exeunt, and ends.
package main

import (
	"runtime"

	"exeunt.invalid/exeunt"
)

var ended = make(chan struct{})

//go:noinline
func onExit() { close(ended) }

//go:noinline
func entry() { exeunt.AtExit(onExit) }

// large makes the stack large while the collector runs: frames of 32 KiB, one inside of the other.
// With GODEBUG=adaptivestackstart=1 new stacks are as large as the mean of those that the collector
// has seen.
//
//go:noinline
func large(frames int) byte {
	var room [32 << 10]byte
	if frames > 1 {
		room[frames] = large(frames - 1)
	} else {
		runtime.GC()
	}
	return room[frames]
}

func main() {
	large(16)
	// Only a descriptor that has been in use before gets a stack of that size.
	first := make(chan struct{})
	go func() { close(first) }()
	<-first
	go entry()
	<-ended
}
