// Package site reads the machine code of functions of the running program, and finds the calls in
// them.
//
// A call is found by decoding from the function's first instruction on, never by a search for
// bytes. Both the function and the target of the call must have the expected names in the runtime's
// function table; code that merely resembles a call is not accepted.
package site

import (
	"fmt"
	"sort"
	"strings"
)

// A Ref is an instruction that leads to, or computes, the first address of a function.
type Ref struct {
	Kind   Kind
	At     uintptr // the address of the instruction
	Target uintptr
	Name   string // the target's name in the function table
	prefix []instruction
}

// An Image is a program that can be read. Tests make small ones.
type Image struct {
	Arch string // GOARCH
	// Func returns the name and the first address of the function that contains pc, or "" if there
	// is none.
	Func func(pc uintptr) (name string, entry uintptr)
	// Bytes reads up to n bytes of code.
	Bytes func(at uintptr, n int) []byte
}

// maxFunction is the size above which a function is not read. The largest one of interest,
// runtime.main of an unoptimized build, has 2 KiB.
const maxFunction = 64 << 10

// First returns the length of the first instruction of the function at entry, which must have this
// name.
func (im Image) First(entry uintptr, name string) (int, error) {
	arch, err := im.decoder(entry)
	if err != nil {
		return 0, err
	}
	if found, _ := im.Func(entry); found != name {
		return 0, fmt.Errorf("%s begins at %#x, where %s is expected", found, entry, name)
	}
	code := im.Bytes(entry, 4*lookahead)
	first, ok := arch.next(code, entry)
	if !ok {
		return 0, fmt.Errorf("%s: %x is not a known instruction", name, code)
	}
	return len(first.code), nil
}

// decoder returns the decoder for the function that begins at entry.
func (im Image) decoder(entry uintptr) (decoder, error) {
	if name, start := im.Func(entry); name == "" || start != entry {
		return nil, fmt.Errorf("no function begins at %#x", entry)
	}
	return im.arch()
}

// arch returns the decoder for the image's machine code.
func (im Image) arch() (decoder, error) {
	switch im.Arch {
	case "amd64":
		return amd64{}, nil
	case "arm64":
		return arm64{}, nil
	}
	return nil, fmt.Errorf("the machine code of %s cannot be read", im.Arch)
}

// Refs returns the references from the function at entry to other functions' first addresses:
// calls, jumps and computed addresses.
func (im Image) Refs(entry uintptr) ([]Ref, error) {
	arch, err := im.decoder(entry)
	if err != nil {
		return nil, err
	}
	name, _ := im.Func(entry)
	var refs []Ref
	var before []instruction
	for at := entry; at < entry+maxFunction; {
		if _, in := im.Func(at); in != entry {
			return refs, nil
		}
		code := im.Bytes(at, 4*lookahead)
		found, ok := arch.next(code, at)
		if !ok {
			return nil, fmt.Errorf("%s+%#x: %x is not a known instruction", name, at-entry, code)
		}
		if found.kind != 0 && found.target != entry {
			if target, begins := im.Func(found.target); target != "" && begins == found.target {
				refs = append(refs, Ref{found.kind, at, found.target, target, before[max(0, len(before)-prefixLength):]})
			}
		}
		before = append(before, found)
		at += uintptr(len(found.code))
	}
	return nil, fmt.Errorf("%s is longer than %d bytes", name, maxFunction)
}

// prefixLength is how many of the instructions before a reference are kept in Ref.prefix.
const prefixLength = 6

// Find returns the references of one kind from the function at entry to functions with one of these
// names. If there are none, the error says which there are.
func (im Image) Find(kind Kind, entry uintptr, names ...string) ([]Ref, error) {
	refs, err := im.Refs(entry)
	if err != nil {
		return nil, err
	}
	var found []Ref
	others := map[string]bool{}
	for _, ref := range refs {
		if ref.Kind != kind {
			continue
		}
		matches := false
		for _, name := range names {
			matches = matches || ref.Name == name
		}
		if matches {
			found = append(found, ref)
		} else {
			others[ref.Name] = true
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	in, _ := im.Func(entry)
	verb := "calls"
	if kind == Address {
		verb = "takes the address of"
	}
	return nil, fmt.Errorf("%s %s %s, but not %s", in, verb, list(others), strings.Join(names, " or "))
}

// One is Find, but there must be exactly one reference.
func (im Image) One(kind Kind, entry uintptr, names ...string) (Ref, error) {
	found, err := im.Find(kind, entry, names...)
	if err != nil {
		return Ref{}, err
	}
	if len(found) != 1 {
		in, _ := im.Func(entry)
		return Ref{}, fmt.Errorf("%s refers to %s in %d places, where one is expected", in, found[0].Name, len(found))
	}
	return found[0], nil
}

func list(names map[string]bool) string {
	if len(names) == 0 {
		return "nothing"
	}
	all := make([]string, 0, len(names))
	for name := range names {
		all = append(all, name)
	}
	sort.Strings(all)
	return strings.Join(all, ", ")
}
