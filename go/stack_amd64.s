//go:build linux

#include "go_asm.h"
#include "textflag.h"

// RECORD leaves the running goroutine's record in CX, or jumps to none. R14 is g. It keeps AX.
#define RECORD(none)					\
	MOVQ	8(R14), DX         /* g.stack.hi */	\
	MOVQ	-8(DX), CX         /* index */		\
	MOVQ	·common+commonState_secret(SB), BX	\
	XORQ	R14, BX					\
	XORQ	CX, BX					\
	CMPQ	BX, -16(DX)				\
	JNE	none					\
	MOVQ	CX, BX					\
	SHRQ	$8, BX             /* chunkRecords */	\
	LEAQ	·chunks(SB), DX				\
	MOVQ	(DX)(BX*8), DX				\
	TESTQ	DX, DX					\
	JEQ	none					\
	MOVBLZX	CX, CX					\
	SHLQ	$8, CX             /* recordSize */	\
	ADDQ	DX, CX					\
	CMPQ	R14, record_owner(CX)			\
	JNE	none

// func(l *localBase) unsafe.Pointer, with l and the result in AX
TEXT ·valueInRegisters(SB), NOSPLIT|NOFRAME, $0-0
	RECORD(none)
	MOVQ	localBase_offset(AX), BX
	CMPQ	BX, $256           // recordSize
	JAE	slow               // not one of the first locals
	CMPB	localBase_indirect(AX), $0
	JNE	indirect
	LEAQ	(CX)(BX*1), AX
	RET
indirect:
	MOVQ	(CX)(BX*1), CX
	TESTQ	CX, CX
	JEQ	zero
	MOVQ	CX, AX
	RET
none:
	CMPL	·common+commonState_mapped(SB), $0
	JNE	slow
zero:
	MOVQ	localBase_zero(AX), AX
	RET
slow:
	MOVQ	·common+commonState_slow(SB), DX
	MOVQ	(DX), CX
	JMP	CX

// func() *record, with the result in AX
TEXT ·currentInRegisters(SB), NOSPLIT|NOFRAME, $0-0
	RECORD(none)
	MOVQ	CX, AX
	RET
none:
	XORL	AX, AX
	RET

// func registerFunctions() (value, current uintptr)
TEXT ·registerFunctions(SB), NOSPLIT, $0-16
	LEAQ	·valueInRegisters(SB), AX
	MOVQ	AX, value+0(FP)
	LEAQ	·currentInRegisters(SB), AX
	MOVQ	AX, current+8(FP)
	RET

// func mark(index uint64)
TEXT ·mark(SB), NOSPLIT, $0-8
	MOVQ	index+0(FP), AX
	MOVQ	(TLS), CX
	MOVQ	8(CX), DX
	MOVQ	AX, -8(DX)
	XORQ	·common+commonState_secret(SB), CX
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
