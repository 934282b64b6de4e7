//go:build linux

#include "go_asm.h"
#include "textflag.h"

// func probeAddress() uintptr
TEXT ·probeAddress(SB), NOSPLIT, $0-8
	LEAQ	·probeEntry(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

// The entry function of a goroutine: notes where its stack begins, then goes on in Go as if it weren't there.
TEXT ·probeEntry(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	SP, ·probeStackPointer(SB)
	MOVQ	0(SP), AX                    // on top of the stack at a function's first instruction
	MOVQ	AX, ·probeReturnAddress(SB)
	MOVQ	(TLS), CX                    // g
	MOVQ	8(CX), DX                    // g.stack.hi
	MOVQ	DX, ·probeStackTop(SB)
	JMP	·probeBody(SB)               // which returns where this would have
