#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// Slot mode: what runs at the end of an armed goroutine. foot_amd64.s has the layout.

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

// func trampolineAddress() uintptr
TEXT ·trampolineAddress(SB), NOSPLIT, $0-8
	LEAQ	·exitTrampoline(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
