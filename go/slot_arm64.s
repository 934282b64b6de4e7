#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// Slot mode: what runs at the end of an armed goroutine, and the read path. foot_arm64.s has the layout.

// func exitTrampoline(s *sentinel)
//
// What the foot of an armed goroutine holds is the address behind the call, which the experiment of
// installSlot finds. There the entry function returns to; and while drainAtFoot runs, it is the
// return address of that.
TEXT ·exitTrampoline(SB), NOSPLIT|NOFRAME|TOPFRAME, $0-8
	MOVD	ZR, R0               // the runtime takes an address at a function's start for its entry
drain:
	MOVD	ZR, 24(RSP)          // the distance: the foot is used up
	BL	·drainAtFoot(SB)
	MOVD	8(RSP), R0           // s
	CBNZ	R0, drain            // the goroutine is armed
	MOVD	·exitAddress(SB), R0 // runtime.goexit goes on as if the entry function had returned to it
	JMP	(R0)

// func leaveByExit()
TEXT ·leaveByExit(SB), NOSPLIT, $8-0
	NO_LOCAL_POINTERS
	MOVD	·exitAddress(SB), R0 // in runtime.goexit, which calls goexit1
	CALL	(R0)
	UNDEF

// valueInSlotMode and currentInSlotMode are valueInRegisters and currentInRegisters, if this stack
// is armed. The index at its base may be that of an earlier goroutine which had the same descriptor
// and the same stack, and whose record still waits to be drained.

// func(l *localBase) unsafe.Pointer, with l and the result in R0
TEXT ·valueInSlotMode(SB), NOSPLIT|NOFRAME, $0-0
	MOVD	8(g), R1             // g.stack.hi
	MOVD	-48(R1), R2
	MOVD	·armedFoot(SB), R3
	CMP	R2, R3
	BNE	none
	JMP	·valueInRegisters(SB)
none:
	MOVD	localBase_zero(R0), R1
	CBZ	R1, slow             // it has an initial value, or is invalid
	MOVD	R1, R0
	RET
slow:
	MOVD	·common+commonState_slow(SB), R26 // a function value, in the register for its closure
	MOVD	(R26), R1
	JMP	(R1)

// func() *record, with the result in R0
TEXT ·currentInSlotMode(SB), NOSPLIT|NOFRAME, $0-0
	MOVD	8(g), R1
	MOVD	-48(R1), R2
	MOVD	·armedFoot(SB), R3
	CMP	R2, R3
	BNE	none
	JMP	·currentInRegisters(SB)
none:
	MOVD	ZR, R0
	RET

// func slotAddresses() (trampoline, value, current uintptr)
TEXT ·slotAddresses(SB), NOSPLIT, $0-24
	MOVD	$·exitTrampoline(SB), R0
	MOVD	R0, trampoline+0(FP)
	MOVD	$·valueInSlotMode(SB), R0
	MOVD	R0, value+8(FP)
	MOVD	$·currentInSlotMode(SB), R0
	MOVD	R0, current+16(FP)
	RET
