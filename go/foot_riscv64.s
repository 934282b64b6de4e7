#include "go_asm.h"
#include "textflag.h"

// Slot mode. The foot is where the entry function's frame keeps its link register, so that its
// place depends on the entry function. The word at hi-40 says whether a stack is armed: newproc1
// sets it to 0. The argument of exitTrampoline is at hi-32, and the distance of the foot from the
// stack's base at hi-24, or 0 once the entry function has returned (see slot.go).

// func stackUsed() uintptr
TEXT ·stackUsed(SB), NOSPLIT, $0-8
	MOV	8(g), X5             // g.stack.hi
	SUB	X2, X5, X5
	MOV	X5, ret+0(FP)
	RET

// func baseWord(distance uintptr) uintptr
TEXT ·baseWord(SB), NOSPLIT, $0-16
	MOV	8(g), X5             // g.stack.hi
	MOV	distance+0(FP), X6
	SUB	X6, X5, X5
	MOV	(X5), X6
	MOV	X6, ret+8(FP)
	RET

// func setBaseWord(distance, word uintptr)
TEXT ·setBaseWord(SB), NOSPLIT, $0-16
	MOV	8(g), X5             // g.stack.hi; the stack cannot move here
	MOV	distance+0(FP), X6
	MOV	word+8(FP), X7
	SUB	X6, X5, X5
	MOV	X7, (X5)
	RET

// func writeFoot(distance, word, index uintptr, s *sentinel)
TEXT ·writeFoot(SB), NOSPLIT, $0-32
	MOV	8(g), X5             // g.stack.hi; the stack cannot move here
	MOV	distance+0(FP), X6
	MOV	word+8(FP), X7
	MOV	index+16(FP), X28
	MOV	s+24(FP), X29
	MOV	X28, -8(X5)
	MOV	X6, -24(X5)
	MOV	X29, -32(X5)         // before the foot, with which the collector begins to read it
	MOV	X7, -40(X5)
	SUB	X6, X5, X6
	MOV	X7, (X6)
	RET

// func disarmFoot() *sentinel
TEXT ·disarmFoot(SB), NOSPLIT, $0-8
	MOV	ZERO, ret+0(FP)
	MOV	8(g), X5             // g.stack.hi
	MOV	-40(X5), X6
	MOV	·armedFoot(SB), X7
	BNE	X6, X7, no
	MOV	-24(X5), X6
	BEQ	X6, ZERO, returned
	SUB	X6, X5, X6
	MOV	·exitAddress(SB), X7
	MOV	X7, (X6)
returned:
	MOV	-32(X5), X6
	MOV	X6, ret+0(FP)
	MOV	ZERO, -40(X5)
	MOV	ZERO, -32(X5)
	MOV	ZERO, -24(X5)
	MOV	ZERO, -8(X5)
no:
	RET

// func footIsOurs() bool
TEXT ·footIsOurs(SB), NOSPLIT, $0-1
	MOV	8(g), X5             // g.stack.hi
	MOV	-40(X5), X6
	MOV	·armedFoot(SB), X7
	SUB	X7, X6, X6
	SEQZ	X6, X6
	MOVB	X6, ret+0(FP)
	RET
