//go:build !(linux && (amd64 || arm64))

// Package patch retargets calls on Linux, amd64 and arm64; here it refuses.
package patch

import (
	"errors"
	"runtime"
)

// Supported tells whether this system has an engine.
const Supported = false

// ErrUnsupported is what everything here answers.
var ErrUnsupported = errors.New("there is no patch engine for " + runtime.GOOS + "/" + runtime.GOARCH)

// Check refuses.
func Check(site, expected, replacement uintptr) error { return ErrUnsupported }

// Retarget refuses.
func Retarget(site, expected, replacement uintptr) error { return ErrUnsupported }

// Replace refuses.
func Replace(site, length, replacement uintptr) error { return ErrUnsupported }
