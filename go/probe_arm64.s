#include "go_asm.h"
#include "textflag.h"

// func probeAddress() uintptr
TEXT ·probeAddress(SB), NOSPLIT, $0-8
	MOVD	$·probeEntry(SB), R0
	MOVD	R0, ret+0(FP)
	RET

// probeEntry is the entry function of a goroutine. It notes where the stack begins, then jumps to
// Go code as if that had been called instead.
TEXT ·probeEntry(SB), NOSPLIT|NOFRAME, $0-0
	MOVD	RSP, R0                      // RSP itself cannot be stored
	MOVD	R0, ·probeStackPointer(SB)
	MOVD	LR, ·probeReturnAddress(SB)  // the return address at a function's first instruction
	MOVD	8(g), R1                     // g.stack.hi
	MOVD	R1, ·probeStackBase(SB)
	JMP	·probeBody(SB)               // returns where probeEntry would
