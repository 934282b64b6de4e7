#include "go_asm.h"
#include "textflag.h"

// func probeAddress() uintptr
TEXT ·probeAddress(SB), NOSPLIT, $0-8
	LEAQ	·probeEntry(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

// probeEntry is the entry function of a goroutine. It notes where the stack begins, then jumps to
// Go code as if that had been called instead.
TEXT ·probeEntry(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	SP, ·probeStackPointer(SB)
	MOVQ	0(SP), AX                    // the return address at a function's first instruction
	MOVQ	AX, ·probeReturnAddress(SB)
	MOVQ	R14, CX                      // g
	MOVQ	8(CX), DX                    // g.stack.hi
	MOVQ	DX, ·probeStackBase(SB)
	JMP	·probeBody(SB)               // returns where probeEntry would
