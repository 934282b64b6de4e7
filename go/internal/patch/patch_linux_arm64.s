#include "textflag.h"
#include "funcdata.h"

// The engine follows AAPCS64: arguments in R0-R2, result in R0; R19-R29 are kept, and R28 is Go's g. Go keeps the stack
// pointer a multiple of 16, as the ABI wants it.
//
// The engine runs on the goroutine's stack, below these frames, and uses less than 2 KiB of it. ·room makes sure that it is there: its
// prologue grows the stack. Between its return and the engine's nothing can shrink the stack again, since the
// scheduler preempts neither assembly nor code that Go's runtime doesn't know.

// func room()
TEXT ·room(SB), 0, $8192-0
	NO_LOCAL_POINTERS // nothing is ever in it
	RET               // the prologue has done what this is for

// func check(site, expected, replacement uintptr) int32
TEXT ·check(SB), 0, $24-28
	NO_LOCAL_POINTERS
	BL	·room(SB)
	MOVD	site+0(FP), R0          // first argument
	MOVD	expected+8(FP), R1      // second
	MOVD	replacement+16(FP), R2  // third
	BL	exeunt_go_check(SB)
	MOVW	R0, ret+24(FP)          // an i32
	RET

// func retarget(site, expected, replacement uintptr) int32
TEXT ·retarget(SB), 0, $24-28
	NO_LOCAL_POINTERS
	BL	·room(SB)
	MOVD	site+0(FP), R0          // first argument
	MOVD	expected+8(FP), R1      // second
	MOVD	replacement+16(FP), R2  // third
	BL	exeunt_go_retarget(SB)
	MOVW	R0, ret+24(FP)          // an i32
	RET

// func replace(site, length, replacement uintptr) int32
TEXT ·replace(SB), 0, $24-28
	NO_LOCAL_POINTERS
	BL	·room(SB)
	MOVD	site+0(FP), R0          // first argument
	MOVD	length+8(FP), R1      // second
	MOVD	replacement+16(FP), R2  // third
	BL	exeunt_go_replace(SB)
	MOVW	R0, ret+24(FP)          // an i32
	RET
