//go:build go1.23

package main

import "iter"

// Pull calls f in a coroutine.
func Pull(f func()) {
	next, stop := iter.Pull(func(yield func(int) bool) {
		f()
		yield(1)
	})
	defer stop()
	next()
}
