#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// The engine follows the System V ABI: arguments in DI, SI, DX, result in AX; BX, BP and R12-R15 are kept, and R14 is
// Go's g.
//
// The engine runs on the goroutine's stack, below these frames, and uses less than 2 KiB of it. ·reserveStack makes sure that it is there: its
// prologue grows the stack. Between its return and the engine's nothing can shrink the stack again, since the
// scheduler preempts neither assembly nor code that Go's runtime doesn't know.

// func reserveStack()
TEXT ·reserveStack(SB), 0, $8192-0
	NO_LOCAL_POINTERS // nothing is ever in it
	RET               // the prologue has done what this is for

// func callEngine(what, first, second, third uintptr) int32
TEXT ·callEngine(SB), 0, $8-36
	NO_LOCAL_POINTERS
	CALL	·reserveStack(SB)
	MOVQ	first+8(FP), DI
	MOVQ	second+16(FP), SI
	MOVQ	third+24(FP), DX
	MOVQ	what+0(FP), CX
	LEAQ	exeunt_go_check(SB), AX
	CMPQ	CX, $const_check
	JEQ	call
	LEAQ	exeunt_go_retarget(SB), AX
	CMPQ	CX, $const_retarget
	JEQ	call
	LEAQ	exeunt_go_replace(SB), AX
call:
	CALL	engine<>(SB)
	MOVL	AX, ret+32(FP)    // an i32
	RET

// Calls AX with the stack pointer a multiple of 16, as the ABI wants it. A function of its own: one that writes the stack pointer may not be on the
// stack when that is copied (runtime: "unexpected SPWRITE function"), as ·callEngine may, in ·reserveStack.
TEXT engine<>(SB), NOSPLIT, $0-0
	MOVQ	SP, BX    // the callee keeps BX
	ANDQ	$~15, SP
	CALL	AX
	MOVQ	BX, SP
	RET
