//go:build !(linux && (amd64 || arm64))

package exeunt

import "exeunt.invalid/exeunt/internal/patch"

// Without a patch engine no goroutine has a record. Reads find nothing; all other functions fail
// with ErrUnsupported.

func install() error             { return patch.ErrUnsupported }
func current() *record           { return nil }
func checkFoot() error           { return nil }
func setSpareWords(index uint64) {}
func clearSpareWords()           {}
func getg() (g uintptr)          { return }

var common struct{ mapped uint32 }
