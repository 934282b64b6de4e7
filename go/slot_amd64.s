#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// Slot mode: what runs at the end of an armed goroutine, and the read path. foot_amd64.s has the layout.

// func exitTrampoline(s *sentinel)
//
// The first call is for the experiment of installSlot, which finds the address behind the call: that
// is what the foot of an armed goroutine holds. There the entry function returns to; and while
// drainAtFoot runs, its return address is the same word at the same place.
TEXT ·exitTrampoline(SB), NOSPLIT|NOFRAME|TOPFRAME, $0-8
	BYTE	$0x90                // the runtime takes an address at a function's start for its entry
drain:
	CALL	·drainAtFoot(SB)
	CMPQ	8(SP), $0            // s
	JNE	drain                // the goroutine is armed
	MOVQ	·exitAddress(SB), AX // runtime.goexit goes on as if the entry function had returned to it
	JMP	AX

// func leaveByExit()
TEXT ·leaveByExit(SB), NOSPLIT, $8-0
	NO_LOCAL_POINTERS
	MOVQ	·exitAddress(SB), AX // in runtime.goexit, which calls goexit1
	CALL	AX
	UNDEF

// valueInSlotMode and currentInSlotMode are valueInRegisters and currentInRegisters, if this stack
// is armed. The index at its base may be that of an earlier goroutine which had the same descriptor
// and the same stack, and whose record still waits to be drained.

// func(l *localBase) unsafe.Pointer, with l and the result in AX
TEXT ·valueInSlotMode(SB), NOSPLIT|NOFRAME, $0-0
	PCALIGN	$64
	MOVQ	8(R14), DX           // g.stack.hi
	MOVQ	-40(DX), CX
	CMPQ	CX, ·armedFoot(SB)
	JNE	none
	JMP	·valueInRegisters(SB)
none:
	MOVQ	localBase_zero(AX), CX
	TESTQ	CX, CX
	JEQ	slow                 // it has an initial value, or is invalid
	MOVQ	CX, AX
	RET
slow:
	MOVQ	·common+commonState_slow(SB), DX // a function value, in the register for its closure
	MOVQ	(DX), CX
	JMP	CX

// func() *record, with the result in AX
TEXT ·currentInSlotMode(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	8(R14), DX
	MOVQ	-40(DX), CX
	CMPQ	CX, ·armedFoot(SB)
	JNE	none
	JMP	·currentInRegisters(SB)
none:
	XORL	AX, AX
	RET

// func slotAddresses() (trampoline, value, current uintptr)
TEXT ·slotAddresses(SB), NOSPLIT, $0-24
	LEAQ	·exitTrampoline(SB), AX
	MOVQ	AX, trampoline+0(FP)
	LEAQ	·valueInSlotMode(SB), AX
	MOVQ	AX, value+8(FP)
	LEAQ	·currentInSlotMode(SB), AX
	MOVQ	AX, current+16(FP)
	RET
