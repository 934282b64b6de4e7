package exeunt

import (
	"fmt"
	"reflect"
	"unsafe"

	"exeunt.invalid/exeunt/internal/patch"
)

// value and current are Go functions whose first instruction is replaced by a jump, so that a read
// is one direct call:
//
//	before                                         after
//	value:  lea  -0x..(sp), r12   (8 bytes)        value:  jmp  valueInRegisters   (5 bytes)
//	        cmp  r12, 16(r14)                              ...                     (no longer run)
//	        ...
//	        call *valueByAddress
//	        ret
//
// The code before is also correct. It stays where the instruction cannot be replaced.

//go:noinline
func value(l *localBase) unsafe.Pointer {
	if alwaysFalse {
		useFrame(new([256]byte))
	}
	return valueByAddress(l)
}

//go:noinline
func current() *record {
	if alwaysFalse {
		useFrame(new([256]byte))
	}
	return currentByAddress()
}

// alwaysFalse guards calls that give value and current large frames. A function with a large frame
// begins with an instruction of five bytes or more, in which a jump has room.
var alwaysFalse bool

//go:noinline
func useFrame(*[256]byte) {}

const jumpLength = 5

// makeReadsDirect replaces the first instruction of value and of current by a jump to the assembly.
func makeReadsDirect() error {
	for _, r := range []struct {
		name     string
		in, code uintptr
	}{
		{"value", reflect.ValueOf(value).Pointer(), valueCode},
		{"current", reflect.ValueOf(current).Pointer(), currentCode},
	} {
		length, err := image.First(r.in, packagePath+"."+r.name)
		if err == nil {
			err = patch.Replace(r.in, uintptr(length), r.code)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}
