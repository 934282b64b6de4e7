//go:build !(linux && (amd64 || arm64))

package exeunt

import "exeunt.invalid/exeunt/internal/patch"

// Where there is no patch engine no goroutine ever has a record: reading finds nothing, and everything else says so.

func install() error    { return patch.ErrUnsupported }
func current() *record  { return nil }
func mark(index uint64) {}
func unmark()           {}
func getg() (g uintptr) { return }

var common struct{ mapped uint32 }
