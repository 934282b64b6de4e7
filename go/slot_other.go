//go:build !(amd64 || arm64 || riscv64)

package exeunt

import (
	"errors"

	"exeunt.invalid/exeunt/internal/patch"
)

const defaultMode = Collected

func installCode() error        { return patch.ErrUnsupported }
func installSlot() error        { return errors.New("slot mode is for amd64, arm64 and riscv64 only") }
func armSlot(g uintptr) *record { return nil }
func leaveByExit()              {}
