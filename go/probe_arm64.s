//go:build linux

#include "go_asm.h"
#include "textflag.h"

// func probeAddress() uintptr
TEXT ·probeAddress(SB), NOSPLIT, $0-8
	MOVD	$·probeEntry(SB), R0
	MOVD	R0, ret+0(FP)
	RET

// The entry function of a goroutine: notes where its stack begins, then goes on in Go as if it weren't there.
TEXT ·probeEntry(SB), NOSPLIT|NOFRAME, $0-0
	MOVD	RSP, R0                      // RSP itself cannot be stored
	MOVD	R0, ·probeStackPointer(SB)
	MOVD	LR, ·probeReturnAddress(SB)  // where it is at a function's first instruction
	MOVD	8(g), R1                     // g.stack.hi
	MOVD	R1, ·probeStackTop(SB)
	JMP	·probeBody(SB)               // which returns where this would have
