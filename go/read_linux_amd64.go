package exeunt

import (
	"fmt"
	"reflect"
	"unsafe"

	"exeunt.invalid/exeunt/internal/patch"
)

// How value and current come to be direct calls: they are Go functions, whose first instruction becomes a jump.
//
//	before                                         after
//	value:  lea  -0x..(sp), r12   (8 bytes)        value:  jmp  valueInRegisters   (5 bytes)
//	        cmp  r12, 16(r14)                              ...                     (not run any more)
//	        ...
//	        call *valueByAddress
//	        ret
//
// What is there before is right too, and remains where it cannot be replaced.

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

// What is alwaysFalse done makes the frames large ones: then a function begins with an instruction of five bytes or more, in which a jump has room.
var alwaysFalse bool

//go:noinline
func useFrame(*[256]byte) {}

const jumpLength = 5

// makeReadsDirect lets value and current begin with a jump to the assembly.
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
