package site

import "encoding/binary"

// arm64 decodes A64 machine code. Two instructions compute an address: adrp that of the page, then
// add the rest.
type arm64 struct{}

// lookahead is the largest distance between those two, in instructions.
const lookahead = 8

func (arm64) next(code []byte, at uintptr) (instruction, bool) {
	if len(code) < 4 || at%4 != 0 {
		return instruction{}, false
	}
	word := binary.LittleEndian.Uint32(code)
	found := instruction{at: at, code: code[:4]}
	switch {
	case word>>26 == 0b100101: // bl
		found.kind, found.target = Call, branch(word, at)
	case word>>26 == 0b000101: // b
		found.kind, found.target = Jump, branch(word, at)
	case word&0x9f000000 == 0x90000000: // adrp
		pages := int64(int32(word<<8)>>11)&^3 | int64(word>>29&3)
		page := at&^0xfff + uintptr(pages<<12)
		register := word & 31
		// The add need not be the next instruction: compilers put others between them.
		for i := 4; i < 4*lookahead && i+4 <= len(code); i += 4 {
			add := binary.LittleEndian.Uint32(code[i:])
			// add of an unshifted immediate to that register
			if add&0xffc00000 == 0x91000000 && add>>5&31 == register {
				found.kind, found.target = Address, page+uintptr(add>>10&0xfff)
				break
			}
			// The register is written by something else (or only named, in which case the address
			// is missed).
			if add&31 == register {
				break
			}
		}
	}
	return found, true
}

func branch(word uint32, at uintptr) uintptr {
	// imm26 counts instructions and is signed: its top bit to bit 31, and back with 2 bits less.
	return at + uintptr(int32(word<<6)>>4)
}

func (arm64) coroExit(before []instruction) (fields Fields, ok bool) {
	if len(before) < 5 {
		return fields, false
	}
	before = before[len(before)-5:]
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(before[i].code) }
	pointer, one, flag := word(0), word(1), word(2)
	base := pointer >> 5 & 31
	if pointer&0xffc00000 != 0xf9000000 || // str x, [base, #imm*8]
		one&0xffffffe0 != 0xb24003e0 || // orr t, xzr, #1
		// strb t, [base, #imm]
		flag&0xffc00000 != 0x39000000 || flag&31 != one&31 || flag>>5&31 != base ||
		before[3].kind != Address {
		return fields, false
	}
	fields.Coroarg = uintptr(pointer>>10&0xfff) * 8
	fields.Coroexit = uintptr(flag >> 10 & 0xfff)
	return fields, plausible(fields)
}
