//go:build !(linux && (amd64 || arm64))

package exeunt

import "exeunt.invalid/exeunt/internal/patch"

// Where there is no patch engine no goroutine ever has a record: reading finds nothing, and everything else says so.

func install() error             { return patch.ErrUnsupported }
func current() *record           { return nil }
func setSpareWords(index uint64) {}
func clearSpareWords()           {}
func getg() (g uintptr)          { return }

var common struct{ mapped uint32 }
