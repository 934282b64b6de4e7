#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// Slot mode: what runs at the end of an armed goroutine. foot_arm64.s has the layout.

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

// func trampolineAddress() uintptr
TEXT ·trampolineAddress(SB), NOSPLIT, $0-8
	MOVD	$·exitTrampoline(SB), R0
	MOVD	R0, ret+0(FP)
	RET
