//go:build !(amd64 || arm64)

package exeunt

import (
	"errors"

	"exeunt.invalid/exeunt/internal/patch"
)

// Without assembly no goroutine has a record. Reads find nothing; all other functions fail with
// the error of Install.

const defaultMode = Code

func installCode() error         { return patch.ErrUnsupported }
func installSlot() error         { return errors.New("slot mode is for amd64 and arm64 only") }
func current() *record           { return nil }
func setSpareWords(index uint64) {}
func clearSpareWords()           {}
func getg() (g uintptr)          { return }

func footIsOurs() bool          { return false }
func disarmFoot() *sentinel     { return nil }
func armSlot(g uintptr) *record { return nil }
func leaveByExit()              {}

var common struct{ mapped uint32 }
