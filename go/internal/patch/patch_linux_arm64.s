#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// The engine follows AAPCS64: arguments in R0-R2, result in R0. It preserves R19-R29; R28 is Go's
// g. Go keeps the stack pointer a multiple of 16, as the ABI requires.
//
// The engine runs on the goroutine's stack, below these frames, and uses less than 2 KiB of it. The
// prologue of ·reserveStack grows the stack to make room. Nothing can shrink the stack before the
// engine returns: the scheduler preempts neither assembly nor code outside of Go's function table.

// func reserveStack()
TEXT ·reserveStack(SB), 0, $8192-0
	NO_LOCAL_POINTERS // the frame stays empty
	RET               // only the prologue is needed

// func callEngine(what, first, second, third uintptr) int32
TEXT ·callEngine(SB), 0, $24-36
	NO_LOCAL_POINTERS
	BL	·reserveStack(SB)
	MOVD	first+8(FP), R0
	MOVD	second+16(FP), R1
	MOVD	third+24(FP), R2
	MOVD	what+0(FP), R3
	// Go's linker, where it leaves part of the work to another linker, cannot give that the
	// addresses of these functions, but only calls of them.
	CMP	$const_check, R3
	BEQ	check
	CMP	$const_retarget, R3
	BEQ	retarget
	BL	exeunt_go_replace(SB)
	B	done
check:
	BL	exeunt_go_check(SB)
	B	done
retarget:
	BL	exeunt_go_retarget(SB)
done:
	MOVW	R0, ret+32(FP)    // an i32
	RET
