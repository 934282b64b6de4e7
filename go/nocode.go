//go:build riscv64 || (!linux && (amd64 || arm64))

package exeunt

import "exeunt.invalid/exeunt/internal/patch"

const defaultMode = Slot

func sameRuntime(goexit uintptr) error { return nil } // no copy of this package redirects calls here

func installCode() error { return patch.ErrUnsupported }
