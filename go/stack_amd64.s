#include "go_asm.h"
#include "textflag.h"

// Compiled code calls these by wrappers that leave g in R14.

// func setSpareWords(index uint64)
TEXT ·setSpareWords(SB), NOSPLIT, $0-8
	MOVQ	index+0(FP), AX
	MOVQ	R14, CX            // g
	MOVQ	8(CX), DX          // g.stack.hi; the stack cannot move here
	MOVQ	AX, -8(DX)         // the index
	ADDQ	AX, CX
	XORQ	·common+commonState_secret(SB), CX // (g + index) ^ secret
	MOVQ	CX, -16(DX)        // the check word
	MOVQ	$0, -24(DX)        // no panic has been recovered ...
	MOVQ	$-1, -32(DX)       // ... at any depth
	RET

// func clearSpareWords()
TEXT ·clearSpareWords(SB), NOSPLIT, $0-0
	MOVQ	8(R14), DX         // g.stack.hi
	MOVQ	$0, -8(DX)         // the index, ...
	MOVQ	$0, -16(DX)        // ... and a check word valid only for g = secret, which is odd
	RET

// func recoveredTo() uintptr
TEXT ·recoveredTo(SB), NOSPLIT, $0-8
	MOVQ	8(R14), DX         // g.stack.hi
	MOVQ	-24(DX), AX
	MOVQ	AX, ret+0(FP)
	RET

// func getg() uintptr
TEXT ·getg(SB), NOSPLIT, $0-8
	MOVQ	R14, ret+0(FP)
	RET
