// Package site reads the machine code of functions that are running now, and finds the calls in them.
//
// A call is found by decoding from the function's first instruction on, never by searching for bytes, and both ends are
// named by the runtime's own function table: that the code at an address looks like a call is not believed alone.
package site

import (
	"fmt"
	"sort"
	"strings"
)

// A Ref is an instruction of a function that leads to, or computes, the first address of a function.
type Ref struct {
	Kind   Kind
	At     uintptr // the instruction
	Target uintptr
	Name   string // the target's, from the function table
	prefix []instruction
}

// An Image is a program that can be read. Tests make small ones by hand.
type Image struct {
	Arch string // GOARCH
	// Func names the function that contains pc, and gives its first address; "" if there is none.
	Func func(pc uintptr) (name string, entry uintptr)
	// Bytes reads up to n bytes of code.
	Bytes func(at uintptr, n int) []byte
}

// Functions larger than this are not ours to look at: the largest, runtime.main of an unoptimized build, has 2 KiB.
const maxFunction = 64 << 10

// First is the length of the first instruction of the function at entry, which must have this name.
func (im Image) First(entry uintptr, name string) (int, error) {
	arch, err := im.decoder(entry)
	if err != nil {
		return 0, err
	}
	if found, _ := im.Func(entry); found != name {
		return 0, fmt.Errorf("%s begins at %#x, where %s should", found, entry, name)
	}
	code := im.Bytes(entry, 4*lookahead)
	first, ok := arch.next(code, entry)
	if !ok {
		return 0, fmt.Errorf("%s: %x is no instruction that is known here", name, code)
	}
	return len(first.code), nil
}

// decoder is the one for the function that begins at entry.
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

// Refs lists what the function at entry calls, jumps to or takes the address of, where that is a function's first address.
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
			return nil, fmt.Errorf("%s+%#x: %x is no instruction that is known here", name, at-entry, code)
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

// How many instructions before a reference are kept for [Ref.Prefix].
const prefixLength = 6

// Find returns the references of one kind from the function at entry to functions with one of these names. If there is none, the error
// says what is there instead.
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

// One is Find where exactly one reference may be.
func (im Image) One(kind Kind, entry uintptr, names ...string) (Ref, error) {
	found, err := im.Find(kind, entry, names...)
	if err != nil {
		return Ref{}, err
	}
	if len(found) != 1 {
		in, _ := im.Func(entry)
		return Ref{}, fmt.Errorf("%s refers to %s in %d places, where one is known", in, found[0].Name, len(found))
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
