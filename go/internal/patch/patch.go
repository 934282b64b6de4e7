//go:build linux && (amd64 || arm64)

// Package patch retargets one direct call in the running program, or puts a jump in place of an instruction, or says why not.
//
// The work is done by raw, the no_std part of the Rust patch engine, checked in as one small object for each architecture
// (exeunt_linux_*.syso, see ../../syso): Go's linker takes it without cgo, a C compiler or Rust. It makes its
// system calls itself, so Go's scheduler sees one short call.
package patch

// Supported tells whether this system has an engine.
const Supported = true

// ask calls one of the engine's functions on the goroutine's own stack, by engine (amd64), after room has made it large enough.

//lint:ignore U1000 called by assembly
func room()

//go:noescape
func ask(what, first, second, third uintptr) int32

// What the engine can be asked.
const (
	check = iota
	retarget
	replace
)

// Check says what stands in the way of retargeting the call at site from expected to replacement. It changes nothing.
func Check(site, expected, replacement uintptr) error {
	return refusal(ask(check, site, expected, replacement))
}

// Retarget changes the call at site, which calls expected, to call replacement. On an error it still calls expected, unless the
// error is [NotRestored]. One call at a time: the engine has no lock.
func Retarget(site, expected, replacement uintptr) error {
	return refusal(ask(retarget, site, expected, replacement))
}

// Replace puts a jump to replacement in place of the instruction at site, which has length bytes. It refuses where that could not be done
// while other threads run there: if the instruction is shorter than a jump (amd64), or not of a kind that may be replaced at any time (arm64).
func Replace(site, length, replacement uintptr) error {
	return refusal(ask(replace, site, length, replacement))
}
