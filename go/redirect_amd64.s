//go:build linux

#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// What the redirected calls lead to. Each function stands exactly where the original callee would: the return address on the stack is the
// runtime's own, so growing the stack, garbage collection and tracebacks find frames they know.
//
// A goroutine that never used the package pays for ARMED and a jump. Compiled code calls some of these by ABIInternal: R14 is g and X15 is zero,
// there and wherever it is called back; arguments are in AX, BX, CX, and the callee may spill them to the first words of its caller's frame.

// ARMED jumps to yes if the running goroutine may have a record: by its check word (see stack_linux.go; what it lets through is looked
// at more closely in Go). It keeps AX.
#define ARMED(yes)		\
	MOVQ	(TLS), CX	\
	MOVQ	8(CX), DX	\
	XORQ	·common+commonState_secret(SB), CX	\
	XORQ	-8(DX), CX	\
	CMPQ	CX, -16(DX)	\
	JEQ	yes

// GO makes the registers what compiled Go code expects, after a call that followed the stack-based ABI.
#define GO			\
	MOVQ	(TLS), R14	\
	XORPS	X15, X15

// runtime.goexit, into which a goroutine's entry function returns: call runtime.goexit1.
TEXT ·endByReturn(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_nextByReturn(SB), DX
	JMP	DX
drain:
	JMP	·drainEndByReturn(SB)

TEXT ·drainEndByReturn(SB), 0, $8-0
	NO_LOCAL_POINTERS
	CALL	·goroutineEnds(SB)
	GO
	MOVQ	·common+commonState_nextByReturn(SB), DX
	CALL	DX
	UNDEF

// func leaveGoroutine()
TEXT ·leaveGoroutine(SB), NOSPLIT, $8-0
	NO_LOCAL_POINTERS
	MOVQ	·common+commonState_nextByReturn(SB), DX
	CALL	DX
	UNDEF

// runtime.Goexit, after the deferred functions: call runtime.goexit1.
TEXT ·endByGoexit(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_nextByGoexit(SB), DX
	JMP	DX
drain:
	JMP	·drainEndByGoexit(SB)

TEXT ·drainEndByGoexit(SB), 0, $8-0
	NO_LOCAL_POINTERS
	CALL	·goroutineEnds(SB)
	GO
	MOVQ	·common+commonState_nextByGoexit(SB), DX
	CALL	DX
	UNDEF

// runtime.main and os.runtime_beforeExit: call exithook.Run or runtime.runExitHooks, with the exit code in AX.
TEXT ·endOfProcess(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_nextOfProcess(SB), DX
	JMP	DX
drain:
	JMP	·drainEndOfProcess(SB)

// NOSPLIT: a prologue that grows the stack would lose AX.
TEXT ·drainEndOfProcess(SB), NOSPLIT, $16-0
	NO_LOCAL_POINTERS
	MOVQ	AX, 8(SP)
	MOVQ	AX, 0(SP)
	CALL	·processEnds(SB)
	GO
	MOVQ	8(SP), AX
	MOVQ	·common+commonState_nextOfProcess(SB), DX
	CALL	DX
	RET

// runtime.corostart's deferred call: call runtime.coroexit(c), or runtime.mcall(coroswitch_m) where coroexit was inlined. The argument in AX
// is reachable elsewhere (c by the frame of corostart, the function from read-only data), so the frame may hide it.
TEXT ·endOfCoroutine(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_nextOfCoroutine(SB), DX
	JMP	DX
drain:
	JMP	·drainEndOfCoroutine(SB)

TEXT ·drainEndOfCoroutine(SB), NOSPLIT, $16-0
	NO_LOCAL_POINTERS
	MOVQ	(TLS), CX
	MOVQ	CX, 0(SP)
	MOVQ	AX, 8(SP)
	CALL	·coroutineEnds(SB) // does not return
	UNDEF

// func leaveCoroutine(argument uintptr)
TEXT ·leaveCoroutine(SB), NOSPLIT, $8-8
	NO_LOCAL_POINTERS
	MOVQ	argument+0(FP), AX
	GO
	MOVQ	·common+commonState_nextOfCoroutine(SB), DX
	CALL	DX
	UNDEF

// runtime.cgocallbackg: call runtime.cgocallbackg1(fn, frame, ctxt). What there is to do comes after it. The frame has room for the three
// arguments, which the callee may spill; it describes them itself when the stack is copied.
TEXT ·endOfCallback(SB), NOSPLIT, $24-0
	NO_LOCAL_POINTERS
	MOVQ	·common+commonState_nextOfCallback(SB), DX
	CALL	DX
	ARMED(drain)
	RET
drain:
	CALL	·callbackEnds(SB)
	GO
	RET

TEXT ·drainEndOfCallback(SB), NOSPLIT, $24-0
	NO_LOCAL_POINTERS
	MOVQ	·common+commonState_nextOfCallback(SB), DX
	CALL	DX
	CALL	·callbackEnds(SB)
	GO
	RET

// func entryPoints(spareWords bool) (byReturn, byGoexit, ofProcess, ofCoroutine, ofCallback uintptr)
TEXT ·entryPoints(SB), NOSPLIT, $0-48
	CMPB	spareWords+0(FP), $0
	JEQ	map
	LEAQ	·endByReturn(SB), AX
	MOVQ	AX, byReturn+8(FP)
	LEAQ	·endByGoexit(SB), AX
	MOVQ	AX, byGoexit+16(FP)
	LEAQ	·endOfProcess(SB), AX
	MOVQ	AX, ofProcess+24(FP)
	LEAQ	·endOfCoroutine(SB), AX
	MOVQ	AX, ofCoroutine+32(FP)
	LEAQ	·endOfCallback(SB), AX
	MOVQ	AX, ofCallback+40(FP)
	RET
map:
	LEAQ	·drainEndByReturn(SB), AX
	MOVQ	AX, byReturn+8(FP)
	LEAQ	·drainEndByGoexit(SB), AX
	MOVQ	AX, byGoexit+16(FP)
	LEAQ	·drainEndOfProcess(SB), AX
	MOVQ	AX, ofProcess+24(FP)
	LEAQ	·drainEndOfCoroutine(SB), AX
	MOVQ	AX, ofCoroutine+32(FP)
	LEAQ	·drainEndOfCallback(SB), AX
	MOVQ	AX, ofCallback+40(FP)
	RET

// func probeAddress() uintptr
TEXT ·probeAddress(SB), NOSPLIT, $0-8
	LEAQ	·probeEntry(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

// The entry function of a goroutine: notes where its stack begins, then goes on in Go as if it weren't there.
TEXT ·probeEntry(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	SP, ·probeStackPointer(SB)
	MOVQ	0(SP), AX
	MOVQ	AX, ·probeReturnAddress(SB)
	MOVQ	(TLS), CX
	MOVQ	8(CX), DX
	MOVQ	DX, ·probeStackTop(SB)
	JMP	·probeBody(SB)
