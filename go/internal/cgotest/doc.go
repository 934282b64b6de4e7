// Package cgotest contains the tests that need cgo: Go functions called from threads that C has
// started. Without cgo it is empty.
package cgotest
