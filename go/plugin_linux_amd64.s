#include "textflag.h"

// func returnAddress() uintptr
TEXT ·returnAddress(SB), NOSPLIT, $0-8
	MOVQ	8(R14), DX         // g.stack.hi; compiled code calls this by a wrapper that leaves g in R14
	MOVQ	-40(DX), AX
	MOVQ	AX, ret+0(FP)
	RET
