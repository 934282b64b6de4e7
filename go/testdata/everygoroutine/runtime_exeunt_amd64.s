#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// A goroutine starts with its entry function's closure in DX.
TEXT runtime·exeuntBegin(SB),NOSPLIT|NOFRAME,$0-0
	NO_LOCAL_POINTERS
	ADJSP	$16
	MOVQ	DX, 0(SP)
	CALL	runtime·exeuntCall(SB)
	MOVQ	8(SP), DX
	ADJSP	$-16
	XORPS	X15, X15
	MOVQ	(DX), AX
	JMP	AX
