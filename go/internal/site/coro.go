package site

import (
	"encoding/binary"
	"fmt"
)

// Fields are two fields of a goroutine's descriptor (type g), as offsets into it.
type Fields struct {
	Coroarg  uintptr // pointer: the coroutine to switch to
	Coroexit uintptr // byte: 1 if the switch ends this goroutine
}

// CoroExit reads those offsets from the stores that runtime.coroexit makes just before its call of runtime.mcall
// (src/runtime/coro.go, Go 1.23 to 1.27):
//
//	gp.coroarg = c              mov [gp+disp32], c        str c, [gp, #imm]
//	gp.coroexit = true          movb [gp+disp32], 1       orr t, zr, #1; strb t, [gp, #imm]
//	mcall(coroswitch_m)         lea rax, …; call          adrp, add; bl
func (im Image) CoroExit(call Ref) (Fields, error) {
	var fields Fields
	var ok bool
	if im.Arch == "amd64" {
		fields, ok = coroAMD64(call.prefix)
	} else {
		fields, ok = coroARM64(call.prefix)
	}
	if !ok {
		code := ""
		for _, before := range call.prefix {
			code += fmt.Sprintf(" %x", before.code)
		}
		return fields, fmt.Errorf("the instructions before the call of %s store no known pair of fields:%s", call.Name, code)
	}
	return fields, nil
}

func coroAMD64(before []instruction) (fields Fields, ok bool) {
	if len(before) < 3 {
		return fields, false
	}
	before = before[len(before)-3:]
	pointer, flag, lea := before[0].code, before[1].code, before[2].code
	// 48 89 /r disp32; c6 /0 disp32 01; 48 8d 05 disp32. Registers r8-r15 would need other REX bits and are refused.
	if len(pointer) != 7 || pointer[0] != 0x48 || pointer[1] != 0x89 || pointer[2]>>6 != 2 ||
		len(flag) != 7 || flag[0] != 0xc6 || flag[1]&0xf8 != 0x80 || flag[6] != 1 ||
		len(lea) != 7 || lea[1] != 0x8d {
		return fields, false
	}
	base := pointer[2] & 7
	if base == 4 || base != flag[1]&7 {
		return fields, false
	}
	fields.Coroarg = uintptr(binary.LittleEndian.Uint32(pointer[3:]))
	fields.Coroexit = uintptr(binary.LittleEndian.Uint32(flag[2:]))
	return fields, plausible(fields)
}

func coroARM64(before []instruction) (fields Fields, ok bool) {
	if len(before) < 5 {
		return fields, false
	}
	before = before[len(before)-5:]
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(before[i].code) }
	pointer, one, flag := word(0), word(1), word(2)
	base := pointer >> 5 & 31
	if pointer&0xffc00000 != 0xf9000000 || // str x, [base, #imm*8]
		one&0xffffffe0 != 0xb24003e0 || // orr t, xzr, #1
		flag&0xffc00000 != 0x39000000 || flag&31 != one&31 || flag>>5&31 != base || // strb t, [base, #imm]
		before[3].kind != Address {
		return fields, false
	}
	fields.Coroarg = uintptr(pointer>>10&0xfff) * 8
	fields.Coroexit = uintptr(flag >> 10 & 0xfff)
	return fields, plausible(fields)
}

// plausible keeps to what a descriptor of some 400 bytes can have; its first fields are the stack's bounds and guards.
func plausible(fields Fields) bool {
	return fields.Coroarg%8 == 0 && fields.Coroarg >= 64 && fields.Coroarg < 1024 && fields.Coroexit >= 64 && fields.Coroexit < 1024
}
