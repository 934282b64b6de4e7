#include "go_asm.h"
#include "textflag.h"

// func probeAddress() uintptr
TEXT ·probeAddress(SB), NOSPLIT, $0-8
	MOV	$·probeEntry(SB), X5
	MOV	X5, ret+0(FP)
	RET

// probeEntry is the entry function of a goroutine. It notes where the stack begins, then jumps to
// Go code as if that had been called instead.
TEXT ·probeEntry(SB), NOSPLIT|NOFRAME, $0-0
	MOV	X2, ·probeStackPointer(SB)
	MOV	X1, ·probeReturnAddress(SB)  // the return address at a function's first instruction
	MOV	8(g), X5                     // g.stack.hi
	MOV	X5, ·probeStackBase(SB)
	JMP	·probeBody(SB)               // returns where probeEntry would
