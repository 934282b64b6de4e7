#include "textflag.h"
#include "funcdata.h"

// The engine follows the System V ABI: arguments in DI, SI, DX, result in AX; BX, BP and R12-R15 are kept, and R14 is
// Go's g.
//
// The engine runs on the goroutine's stack, below these frames, and uses less than 2 KiB of it. ·room makes sure that it is there: its
// prologue grows the stack. Between its return and the engine's nothing can shrink the stack again, since the
// scheduler preempts neither assembly nor code that Go's runtime doesn't know.

// func room()
TEXT ·room(SB), 0, $8192-0
	NO_LOCAL_POINTERS // nothing is ever in it
	RET               // the prologue has done what this is for

// func check(site, expected, replacement uintptr) int32
TEXT ·check(SB), 0, $8-28
	NO_LOCAL_POINTERS
	CALL	·room(SB)
	MOVQ	site+0(FP), DI          // first argument
	MOVQ	expected+8(FP), SI      // second
	MOVQ	replacement+16(FP), DX  // third
	LEAQ	exeunt_go_check(SB), AX
	CALL	·engine(SB)
	MOVL	AX, ret+24(FP)          // an i32
	RET

// func retarget(site, expected, replacement uintptr) int32
TEXT ·retarget(SB), 0, $8-28
	NO_LOCAL_POINTERS
	CALL	·room(SB)
	MOVQ	site+0(FP), DI          // first argument
	MOVQ	expected+8(FP), SI      // second
	MOVQ	replacement+16(FP), DX  // third
	LEAQ	exeunt_go_retarget(SB), AX
	CALL	·engine(SB)
	MOVL	AX, ret+24(FP)          // an i32
	RET

// func replace(site, length, replacement uintptr) int32
TEXT ·replace(SB), 0, $8-28
	NO_LOCAL_POINTERS
	CALL	·room(SB)
	MOVQ	site+0(FP), DI          // first argument
	MOVQ	length+8(FP), SI      // second
	MOVQ	replacement+16(FP), DX  // third
	LEAQ	exeunt_go_replace(SB), AX
	CALL	·engine(SB)
	MOVL	AX, ret+24(FP)          // an i32
	RET

// Calls AX with the stack pointer a multiple of 16, as the ABI wants it. A function of its own: one that writes the stack pointer may not be on the
// stack when that is copied (runtime: "unexpected SPWRITE function"), as those above may, in ·room.
TEXT ·engine(SB), NOSPLIT, $0-0
	MOVQ	SP, BX    // the callee keeps BX
	ANDQ	$~15, SP
	CALL	AX
	MOVQ	BX, SP
	RET
