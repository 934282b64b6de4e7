#include "go_asm.h"
#include "textflag.h"

// func setSpareWords(index uint64)
TEXT ·setSpareWords(SB), NOSPLIT, $0-8
	MOVD	index+0(FP), R0
	MOVD	8(g), R1           // g.stack.hi; the stack cannot move here
	MOVD	·common+commonState_secret(SB), R3
	ADD	g, R0, R2
	EOR	R2, R3, R3         // (g + index) ^ secret
	STP	(R3, R0), -16(R1)  // the check word, the index
	MOVD	$-1, R2
	STP	(R2, ZR), -32(R1)  // no panic has been recovered at any depth
	RET

// func clearSpareWords()
TEXT ·clearSpareWords(SB), NOSPLIT, $0-0
	MOVD	8(g), R1           // g.stack.hi
	STP	(ZR, ZR), -16(R1)  // a check word valid only for g = secret, which is odd
	RET

// func recoveredTo() uintptr
TEXT ·recoveredTo(SB), NOSPLIT, $0-8
	MOVD	8(g), R1           // g.stack.hi
	MOVD	-24(R1), R0
	MOVD	R0, ret+0(FP)
	RET

// func getg() uintptr
TEXT ·getg(SB), NOSPLIT, $0-8
	MOVD	g, ret+0(FP)
	RET
