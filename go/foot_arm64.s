#include "go_asm.h"
#include "textflag.h"

// Slot mode. The foot is where the entry function's frame keeps its link register, so that its
// place depends on the entry function. The word at hi-48 says whether a stack is armed: newproc1
// sets it to 0. The argument of exitTrampoline is at hi-40, and the distance of the foot from the
// stack's base at hi-24, or 0 once the entry function has returned (see slot.go).

// func findFoot() (distance uintptr)
//
// The frame pointer leads to the saved frame pointer of the caller, and above that is the address to
// which the caller returns. The outermost frame has saved a 0, with which a goroutine begins.
TEXT ·findFoot(SB), NOSPLIT, $0-8
	MOVD	ZR, distance+0(FP)
	MOVD	8(g), R1             // g.stack.hi
	SUB	$48, R1, R2          // a saved frame pointer is at most 16 bytes below this
	SUB	$16, RSP, R3         // a frame pointer is saved below the frame
	MOVD	R29, R4
next:
	CMP	R3, R4
	BLS	no                   // it does not lead outwards
	ADD	$16, R4, R5
	CMP	R2, R5
	BHI	no                   // it leads off the stack
	TST	$7, R4
	BNE	no
	MOVD	R4, R3
	MOVD	(R3), R4
	CBNZ	R4, next
	MOVD	8(R3), R5
	MOVD	·exitAddress(SB), R6
	CMP	R5, R6
	BNE	no
	ADD	$8, R3
	SUB	R3, R1, R1
	MOVD	R1, distance+0(FP)
no:
	RET

// func writeFoot(distance, word, index uintptr, s *sentinel)
TEXT ·writeFoot(SB), NOSPLIT, $0-32
	MOVD	8(g), R1             // g.stack.hi; the stack cannot move here
	MOVD	distance+0(FP), R2
	MOVD	word+8(FP), R3
	MOVD	index+16(FP), R4
	MOVD	s+24(FP), R5
	MOVD	R4, -8(R1)
	MOVD	R2, -24(R1)
	MOVD	R5, -40(R1)          // before the foot, with which the collector begins to read it
	MOVD	R3, -48(R1)
	SUB	R2, R1, R2
	MOVD	R3, (R2)
	RET

// func disarmFoot() *sentinel
TEXT ·disarmFoot(SB), NOSPLIT, $0-8
	MOVD	ZR, ret+0(FP)
	MOVD	8(g), R1             // g.stack.hi
	MOVD	-48(R1), R2
	MOVD	·armedFoot(SB), R3
	CMP	R2, R3
	BNE	no
	MOVD	-24(R1), R2
	CBZ	R2, returned
	SUB	R2, R1, R2
	MOVD	·exitAddress(SB), R4
	MOVD	R4, (R2)
returned:
	MOVD	-40(R1), R0
	MOVD	R0, ret+0(FP)
	MOVD	ZR, -48(R1)
	MOVD	ZR, -40(R1)
	MOVD	ZR, -24(R1)
	MOVD	ZR, -8(R1)
no:
	RET

// func footIsOurs() bool
TEXT ·footIsOurs(SB), NOSPLIT, $0-1
	MOVD	8(g), R1             // g.stack.hi
	MOVD	-48(R1), R2
	MOVD	·armedFoot(SB), R3
	CMP	R2, R3
	CSET	EQ, R0
	MOVB	R0, ret+0(FP)
	RET
