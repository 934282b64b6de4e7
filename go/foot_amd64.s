#include "go_asm.h"
#include "textflag.h"

// Slot mode. The foot is at hi-40, and the argument of exitTrampoline at hi-24 (see slot.go).
// Compiled code calls the functions below by wrappers that leave g in R14.

// func findFoot() (distance uintptr)
TEXT ·findFoot(SB), NOSPLIT, $0-8
	MOVQ	$0, distance+0(FP)
	MOVQ	8(R14), DX           // g.stack.hi
	MOVQ	-40(DX), CX
	CMPQ	CX, ·exitAddress(SB)
	JNE	no
	MOVQ	$40, distance+0(FP)
no:
	RET

// func writeFoot(distance, word, index uintptr, s *sentinel)
TEXT ·writeFoot(SB), NOSPLIT, $0-32
	MOVQ	8(R14), DX           // g.stack.hi; the stack cannot move here
	MOVQ	index+16(FP), AX
	MOVQ	AX, -8(DX)
	MOVQ	s+24(FP), AX
	MOVQ	AX, -24(DX)          // before the foot, with which the collector begins to read it
	MOVQ	word+8(FP), AX
	MOVQ	AX, -40(DX)
	RET

// func disarmFoot() *sentinel
TEXT ·disarmFoot(SB), NOSPLIT, $0-8
	MOVQ	$0, ret+0(FP)
	MOVQ	8(R14), DX           // g.stack.hi
	MOVQ	-40(DX), CX
	CMPQ	CX, ·armedFoot(SB)
	JNE	no
	MOVQ	-24(DX), AX
	MOVQ	AX, ret+0(FP)
	// While drainAtFoot runs, this is its return address. It then returns to runtime.goexit at once.
	MOVQ	·exitAddress(SB), CX
	MOVQ	CX, -40(DX)
	MOVQ	$0, -24(DX)
	MOVQ	$0, -8(DX)
no:
	RET

// func footIsOurs() bool
TEXT ·footIsOurs(SB), NOSPLIT, $0-1
	MOVQ	8(R14), DX           // g.stack.hi
	MOVQ	-40(DX), CX
	CMPQ	CX, ·armedFoot(SB)
	SETEQ	ret+0(FP)
	RET
