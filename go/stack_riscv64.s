#include "go_asm.h"
#include "textflag.h"

// func setSpareWords(index uint64)
TEXT ·setSpareWords(SB), NOSPLIT, $0-8
	MOV	index+0(FP), X5
	MOV	8(g), X6           // g.stack.hi; the stack cannot move here
	MOV	·common+commonState_secret(SB), X7
	ADD	g, X5, X28
	XOR	X28, X7, X7        // (g + index) ^ secret
	MOV	X5, -8(X6)         // the index
	MOV	X7, -16(X6)        // the check word
	RET

// func clearSpareWords()
TEXT ·clearSpareWords(SB), NOSPLIT, $0-0
	MOV	8(g), X6           // g.stack.hi
	MOV	ZERO, -8(X6)
	MOV	ZERO, -16(X6)      // a check word valid only for g = secret, which is odd
	RET

// func getg() uintptr
TEXT ·getg(SB), NOSPLIT, $0-8
	MOV	g, ret+0(FP)
	RET
