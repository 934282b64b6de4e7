//go:build linux

#include "textflag.h"

// func current() *record
TEXT ·current(SB), NOSPLIT, $0-8
	MOVQ	(TLS), CX          // g
	MOVQ	8(CX), DX          // g.stack.hi
	MOVQ	-8(DX), AX         // index
	MOVQ	·secret(SB), BX
	XORQ	CX, BX
	XORQ	AX, BX
	CMPQ	BX, -16(DX)
	JNE	none
	MOVQ	AX, BX
	SHRQ	$8, BX             // chunkRecords
	CMPQ	BX, $8192          // maxChunks
	JAE	none
	LEAQ	·chunks(SB), DX
	MOVQ	(DX)(BX*8), DX
	TESTQ	DX, DX
	JEQ	none
	MOVBLZX	AX, AX
	SHLQ	$8, AX             // recordSize
	ADDQ	DX, AX
	CMPQ	CX, (AX)           // record.owner
	JNE	none
	MOVQ	AX, ret+0(FP)
	RET
none:
	MOVQ	$0, ret+0(FP)
	RET

// func mark(index uint64)
TEXT ·mark(SB), NOSPLIT, $0-8
	MOVQ	index+0(FP), AX
	MOVQ	(TLS), CX
	MOVQ	8(CX), DX
	MOVQ	AX, -8(DX)
	XORQ	·secret(SB), CX
	XORQ	AX, CX
	MOVQ	CX, -16(DX)
	RET

// func unmark()
TEXT ·unmark(SB), NOSPLIT, $0-0
	MOVQ	(TLS), CX
	MOVQ	8(CX), DX
	MOVQ	$0, -8(DX)
	MOVQ	$0, -16(DX)
	RET

// func getg() uintptr
TEXT ·getg(SB), NOSPLIT, $0-8
	MOVQ	(TLS), AX
	MOVQ	AX, ret+0(FP)
	RET
