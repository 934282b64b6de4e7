package site

import "encoding/binary"

// amd64 decodes x86-64 machine code: where instructions begin, calls, jumps, and addresses relative
// to the instruction.
//
// Only lengths are decoded, by the opcode maps of the Intel SDM, vol. 2, appendix A. An opcode that
// those maps leave undefined is an error. A test compares the lengths with Go's own disassembler
// for the whole runtime.
type amd64 struct{}

func (amd64) next(code []byte, at uintptr) (instruction, bool) {
	n, opcode, ok := amd64Length(code)
	if !ok || n > len(code) {
		return instruction{}, false
	}
	found := instruction{at: at, code: code[:n]}
	relative := func() uintptr {
		return at + uintptr(n) + uintptr(int32(binary.LittleEndian.Uint32(code[n-4:n])))
	}
	switch {
	case opcode == 0xe8 && n == 5:
		found.kind, found.target = Call, relative()
	case opcode == 0xe9 && n == 5:
		found.kind, found.target = Jump, relative()
	case n == 7 && code[0]&0xf8 == 0x48 && code[1] == 0x8d && code[2]&0xc7 == 0x05:
		// REX.W lea reg, [rip+disp32]
		found.kind, found.target = Address, relative()
	}
	return found, true
}

// Immediate operands by opcode, in the notation of the SDM.
const (
	none  = iota
	ib    // one byte
	iw    // two bytes
	iz    // four bytes, two with the operand-size prefix
	iv    // as iz, eight with REX.W
	moffs // an address: eight bytes
	bad   // not defined in 64-bit mode
)

// amd64Length returns the instruction's length, and its opcode if that is in the one-byte map
// (otherwise 0).
func amd64Length(code []byte) (length int, opcode byte, ok bool) {
	i := 0
	at := func(k int) byte {
		if k < len(code) {
			return code[k]
		}
		return 0
	}
	operand16, wide := false, false
prefixes:
	for ; i < 15; i++ {
		switch at(i) {
		case 0x66:
			operand16 = true
		case 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x67, 0xf0, 0xf2, 0xf3:
		default:
			break prefixes
		}
	}
	if at(i)&0xf0 == 0x40 { // REX comes last
		wide = at(i)&8 != 0
		i++
	}

	opcode = at(i)
	modrm, immediate, table := false, none, 0
	switch opcode {
	case 0x0f:
		switch at(i + 1) {
		case 0x38:
			table, i = 2, i+2
		case 0x3a:
			table, i = 3, i+2
		default:
			table, i = 1, i+1
		}
	case 0xc5: // VEX, two bytes
		table, i = 1, i+2
	case 0xc4: // VEX, three bytes
		table, i = int(at(i+1)&0x1f), i+3
	case 0x62: // EVEX
		table, i = int(at(i+1)&0x7), i+4
	}
	vex := opcode != 0x0f && table != 0
	switch {
	case table == 0 && opcode == 0xc4, table == 0 && opcode == 0x62, table > 3:
		return 0, 0, false
	case table == 0:
		modrm, immediate = oneByte(opcode, at(i+1))
	case table == 1:
		modrm, immediate = twoByte(at(i), vex)
	default:
		modrm, immediate = true, none
		if table == 3 {
			immediate = ib
		}
	}
	if table != 0 {
		opcode = 0
	}
	if immediate == bad {
		return 0, 0, false
	}
	i++
	if modrm {
		i += modrmLength(at(i), at(i+1))
	}
	switch immediate {
	case ib:
		i++
	case iw:
		i += 2
	case iz, iv:
		switch {
		case immediate == iv && wide:
			i += 8
		case operand16:
			i += 2
		default:
			i += 4
		}
	case moffs:
		i += 8
	}
	return i, opcode, i <= 15
}

// modrmLength counts the ModRM byte, the SIB byte and the displacement.
func modrmLength(modrm, sib byte) int {
	mod, rm := modrm>>6, modrm&7
	n := 1
	if mod == 3 {
		return n
	}
	base := rm
	if rm == 4 {
		n++
		base = sib & 7
	}
	switch {
	case mod == 1:
		n++
	case mod == 2, mod == 0 && base == 5:
		n += 4
	}
	return n
}

// oneByte is the one-byte opcode map, without prefixes and escapes. next is the byte after the
// opcode.
func oneByte(op, next byte) (modrm bool, immediate int) {
	switch {
	case op < 0x40:
		switch op & 7 {
		case 0, 1, 2, 3:
			return true, none
		case 4:
			return false, ib
		case 5:
			return false, iz
		}
		return false, bad
	case op >= 0x50 && op <= 0x5f, op >= 0x6c && op <= 0x6f, op >= 0x90 && op <= 0x99, op >= 0x9b && op <= 0x9f,
		op >= 0xa4 && op <= 0xa7, op >= 0xaa && op <= 0xaf, op >= 0xec && op <= 0xef, op >= 0xf8 && op <= 0xfd:
		return false, none
	case op == 0x63, op >= 0x84 && op <= 0x8f, op >= 0xd0 && op <= 0xd3, op >= 0xd8 && op <= 0xdf, op == 0xfe, op == 0xff:
		return true, none
	case op == 0x68, op == 0xa9, op == 0xe8, op == 0xe9:
		return false, iz
	case op == 0x6a, op >= 0x70 && op <= 0x7f, op == 0xa8, op >= 0xb0 && op <= 0xb7, op == 0xcd, op >= 0xe0 && op <= 0xe7, op == 0xeb:
		return false, ib
	case op == 0x69, op == 0x81, op == 0xc7:
		return true, iz
	case op == 0x6b, op == 0x80, op == 0x83, op == 0xc0, op == 0xc1, op == 0xc6:
		return true, ib
	case op >= 0xa0 && op <= 0xa3:
		return false, moffs
	case op >= 0xb8 && op <= 0xbf:
		return false, iv
	case op == 0xc2, op == 0xca:
		return false, iw
	case op == 0xc3, op == 0xc9, op == 0xcb, op == 0xcc, op == 0xcf, op == 0xd7, op == 0xf1, op == 0xf4, op == 0xf5:
		return false, none
	case op == 0xf6 && next>>3&7 < 2:
		return true, ib
	case op == 0xf7 && next>>3&7 < 2:
		return true, iz
	case op == 0xf6, op == 0xf7:
		return true, none
	}
	return false, bad
}

// twoByte is the opcode map after 0f, and map 1 of VEX and EVEX.
func twoByte(op byte, vex bool) (modrm bool, immediate int) {
	switch {
	case op == 0x77:
		return false, none
	case op >= 0x70 && op <= 0x73, op == 0xc2, op >= 0xc4 && op <= 0xc6:
		return true, ib
	case vex:
		return true, none
	case op == 0x05, op == 0x06, op == 0x07, op == 0x08, op == 0x09, op == 0x0b, op >= 0x30 && op <= 0x37,
		op == 0xa0, op == 0xa1, op == 0xa2, op == 0xa8, op == 0xa9, op == 0xaa, op >= 0xc8 && op <= 0xcf:
		return false, none
	case op >= 0x80 && op <= 0x8f:
		return false, iz
	case op == 0xa4, op == 0xac, op == 0xba:
		return true, ib
	case op == 0x04, op == 0x0a, op == 0x0c, op == 0x0e, op == 0x0f, op >= 0x24 && op <= 0x27, op >= 0x39 && op <= 0x3f, op == 0xa6, op == 0xa7:
		return false, bad
	}
	return true, none
}

func (amd64) coroExit(before []instruction) (fields Fields, ok bool) {
	if len(before) < 3 {
		return fields, false
	}
	before = before[len(before)-3:]
	pointer, flag, lea := before[0].code, before[1].code, before[2].code
	// 48 89 /r disp32; c6 /0 disp32 01; 48 8d 05 disp32. Registers r8-r15 would need other REX bits
	// and are refused.
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
