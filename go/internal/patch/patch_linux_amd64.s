#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// The engine follows the System V ABI: arguments in DI, SI, DX, result in AX. It preserves BX, BP
// and R12-R15; R14 is Go's g.
//
// The engine runs on the goroutine's stack, below these frames, and uses less than 2 KiB of it. The
// prologue of ·reserveStack grows the stack to make room. Nothing can shrink the stack before the
// engine returns: the scheduler preempts neither assembly nor code outside of Go's function table.

// func reserveStack()
TEXT ·reserveStack(SB), 0, $8192-0
	NO_LOCAL_POINTERS // the frame stays empty
	RET               // only the prologue is needed

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

// engine calls AX with a stack pointer that is a multiple of 16, as the ABI requires. It is
// separate because a function that writes the stack pointer must not be on the stack when that is
// copied (runtime: "unexpected SPWRITE function"). ·callEngine may be: ·reserveStack copies the
// stack.
TEXT engine<>(SB), NOSPLIT, $0-0
	MOVQ	SP, BX    // the callee preserves BX
	ANDQ	$~15, SP
	CALL	AX
	MOVQ	BX, SP
	RET
