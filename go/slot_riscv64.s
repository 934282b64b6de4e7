#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// Slot mode: what runs at the end of an armed goroutine. foot_riscv64.s has the layout.

// func exitTrampoline(s *sentinel)
//
// What the foot of an armed goroutine holds is the address behind the call, which the experiment of
// installSlot finds. There the entry function returns to; and while drainAtFoot runs, it is the
// return address of that.
TEXT ·exitTrampoline(SB), NOSPLIT|NOFRAME|TOPFRAME, $0-8
	WORD	$0x00000013          // the runtime takes an address at a function's start for its entry
drain:
	MOV	ZERO, 16(X2)         // the distance: the foot is used up
	CALL	·drainAtFoot(SB)
	MOV	8(X2), X5            // s
	BNE	X5, ZERO, drain      // the goroutine is armed
	MOV	·exitAddress(SB), X5 // runtime.goexit goes on as if the entry function had returned to it
	JMP	(X5)

// func leaveByExit()
TEXT ·leaveByExit(SB), NOSPLIT, $8-0
	NO_LOCAL_POINTERS
	MOV	·exitAddress(SB), X5 // in runtime.goexit, which calls goexit1
	CALL	X5
	UNDEF

// func trampolineAddress() uintptr
TEXT ·trampolineAddress(SB), NOSPLIT, $0-8
	MOV	$·exitTrampoline(SB), X5
	MOV	X5, ret+0(FP)
	RET
