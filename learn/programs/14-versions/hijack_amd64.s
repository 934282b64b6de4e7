#include "textflag.h"

// The unwinder looks up a return address at address - 1: hence the instruction before the call, and
// the addresses that are 1 more than the function's.
TEXT ·plain(SB), NOSPLIT, $0-0
	BYTE $0x90
	CALL ·ended(SB)
	BYTE $0x90

TEXT ·topframe(SB), NOSPLIT|TOPFRAME, $0-0
	BYTE $0x90
	CALL ·ended(SB)
	BYTE $0x90

TEXT ·plainAddress(SB), NOSPLIT, $0-8
	LEAQ ·plain(SB), AX
	MOVQ AX, ret+0(FP)
	RET

TEXT ·topframeAddress(SB), NOSPLIT, $0-8
	LEAQ ·topframe(SB), AX
	MOVQ AX, ret+0(FP)
	RET

TEXT ·framePointer(SB), NOSPLIT, $0-8
	MOVQ BP, ret+0(FP)
	RET
