//go:build linux && (amd64 || arm64)

// Package patch retargets a direct call in the running program, or replaces an instruction by a
// jump. Where it cannot, the error says why.
//
// The work is done by raw, the no_std core of the Rust patch engine. The module contains it as one small
// object for each architecture (exeunt_linux_*.syso, see ../../syso), which Go's linker takes
// without cgo, a C compiler or Rust. The engine makes its system calls itself, so to Go's scheduler
// it is one short call.
package patch

// Supported reports whether this system has an engine.
const Supported = true

// callEngine calls one of the engine's functions on the goroutine's own stack, which it first grows
// with reserveStack. On amd64 it calls by engine<>, which aligns the stack pointer.

//lint:ignore U1000 called by assembly
func reserveStack()

//go:noescape
func callEngine(what, first, second, third uintptr) int32

// The functions of the engine.
const (
	check = iota
	retarget
	replace
)

// Check reports why the call at site cannot be retargeted from expected to replacement, or nil. It
// changes nothing.
func Check(site, expected, replacement uintptr) error {
	return refusal(callEngine(check, site, expected, replacement))
}

// Retarget changes the call at site, which calls expected, to call replacement. After an error it
// still calls expected, unless the error is [NotRestored]. The engine has no lock: there must be
// only one call at a time.
func Retarget(site, expected, replacement uintptr) error {
	return refusal(callEngine(retarget, site, expected, replacement))
}

// Replace replaces the instruction at site, which has length bytes, by a jump to replacement. It
// refuses if other threads could execute a half-written instruction: on amd64 if the instruction is
// shorter than a jump, on arm64 if it is not of a kind that may be replaced at any time.
func Replace(site, length, replacement uintptr) error {
	return refusal(callEngine(replace, site, length, replacement))
}
