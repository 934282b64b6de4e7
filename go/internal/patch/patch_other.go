//go:build !(linux && (amd64 || arm64))

// Package patch retargets calls on Linux, amd64 and arm64. On this system it refuses to.
package patch

import (
	"errors"
	"runtime"
)

// Supported reports whether this system has an engine.
const Supported = false

// ErrUnsupported is the error of all functions of this package.
var ErrUnsupported = errors.New("there is no patch engine for " + runtime.GOOS + "/" + runtime.GOARCH)

// Check returns ErrUnsupported.
func Check(site, expected, replacement uintptr) error { return ErrUnsupported }

// Retarget returns ErrUnsupported.
func Retarget(site, expected, replacement uintptr) error { return ErrUnsupported }

// Replace returns ErrUnsupported.
func Replace(site, length, replacement uintptr) error { return ErrUnsupported }
