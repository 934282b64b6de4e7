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
#define ARMED(yes)								\
	MOVQ	(TLS), CX				/* g */			\
	MOVQ	8(CX), DX				/* g.stack.hi */	\
	ADDQ	-8(DX), CX				/* g + index */		\
	XORQ	·common+commonState_secret(SB), CX	/* ^ secret */		\
	CMPQ	CX, -16(DX)				/* the check word? */	\
	JEQ	yes

// GO makes the registers what compiled Go code expects, after a call that followed the stack-based ABI.
#define GO						\
	MOVQ	(TLS), R14	/* g */			\
	XORPS	X15, X15	/* always zero */

// runtime.goexit, into which a goroutine's entry function returns: call runtime.goexit1.
TEXT ·endByReturn(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	PCALIGN	$8                    // so that one store can replace it:
	JMP	·goOnByReturn(SB)     // soon a jump to goexit1 itself, see shorten_linux.go
drain:
	JMP	·drainEndByReturn(SB) // apart: it has a frame, which this function must not pay for

TEXT ·goOnByReturn(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	·common+commonState_nextByReturn(SB), DX // goexit1, ...
	JMP	DX                                       // ... as if it had been called from goexit

// Its prologue may grow the stack: nothing is in a register that matters.
TEXT ·drainEndByReturn(SB), 0, $8-0
	NO_LOCAL_POINTERS  // the frame holds nothing: a stack that is copied needs to be told
	CALL	·goroutineEnds(SB)
	GO
	MOVQ	·common+commonState_nextByReturn(SB), DX // goexit1, ...
	CALL	DX                                       // ... which never comes back
	UNDEF                                            // so nothing follows

// func leaveGoroutine()
TEXT ·leaveGoroutine(SB), NOSPLIT, $8-0
	NO_LOCAL_POINTERS
	MOVQ	·common+commonState_nextByReturn(SB), DX // goexit1; g and X15 are as Go left them
	CALL	DX
	UNDEF

// runtime.Goexit, after the deferred functions: call runtime.goexit1.
TEXT ·endByGoexit(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_nextByGoexit(SB), DX // goexit1; unoptimised builds may call another wrapper of it
	JMP	DX
drain:
	JMP	·drainEndByGoexit(SB)

TEXT ·drainEndByGoexit(SB), 0, $8-0
	NO_LOCAL_POINTERS
	CALL	·goroutineEnds(SB)
	GO
	MOVQ	·common+commonState_nextByGoexit(SB), DX
	CALL	DX    // never comes back
	UNDEF

// runtime.main and os.runtime_beforeExit: call exithook.Run or runtime.runExitHooks, with the exit code in AX.
TEXT ·endOfProcess(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_nextOfProcess(SB), DX // exithook.Run, with the exit code still in AX
	JMP	DX
drain:
	JMP	·drainEndOfProcess(SB)

// NOSPLIT: a prologue that grows the stack would lose AX.
TEXT ·drainEndOfProcess(SB), NOSPLIT, $16-0
	NO_LOCAL_POINTERS
	MOVQ	AX, 8(SP)     // the exit code, kept
	MOVQ	AX, 0(SP)     // and given as an argument
	CALL	·processEnds(SB)
	GO
	MOVQ	8(SP), AX     // the argument of exithook.Run
	MOVQ	·common+commonState_nextOfProcess(SB), DX
	CALL	DX
	RET                   // to runtime.main or os.runtime_beforeExit, which exit

// runtime.corostart's deferred call: call runtime.coroexit(c), or runtime.mcall(coroswitch_m) where coroexit was inlined. The argument in AX
// is reachable elsewhere (c by the frame of corostart, the function from read-only data), so the frame may hide it.
TEXT ·endOfCoroutine(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_nextOfCoroutine(SB), DX // coroexit or mcall, with its argument still in AX
	JMP	DX
drain:
	JMP	·drainEndOfCoroutine(SB)

TEXT ·drainEndOfCoroutine(SB), NOSPLIT, $16-0
	NO_LOCAL_POINTERS
	MOVQ	(TLS), CX
	MOVQ	CX, 0(SP)          // first argument: g
	MOVQ	AX, 8(SP)          // second: what the redirected call was given
	CALL	·coroutineEnds(SB) // does not return
	UNDEF

// func leaveCoroutine(argument uintptr)
TEXT ·leaveCoroutine(SB), NOSPLIT, $8-8
	NO_LOCAL_POINTERS
	MOVQ	argument+0(FP), AX // where compiled code expects the first argument
	GO
	MOVQ	·common+commonState_nextOfCoroutine(SB), DX
	CALL	DX
	UNDEF

// runtime.cgocallbackg: call runtime.cgocallbackg1(fn, frame, ctxt). What there is to do comes after it, but for what an unnoticed callback
// has left. The frame has room for the three arguments, which the callee may spill (it describes them itself when the stack is
// copied), and for our copies: none is a pointer into Go's memory.
TEXT ·endOfCallback(SB), NOSPLIT, $48-0
	NO_LOCAL_POINTERS
	MOVQ	AX, 24(SP)         // fn
	MOVQ	BX, 32(SP)         // frame
	MOVQ	CX, 40(SP)         // ctxt
	ARMED(left)                // changes CX
call:
	MOVQ	40(SP), CX
	MOVQ	·common+commonState_nextOfCallback(SB), DX // cgocallbackg1
	CALL	DX                 // runs the Go function
	ARMED(drain)
	RET                        // to cgocallbackg
left:
	CALL	·callbackBegins(SB)
	GO
	MOVQ	24(SP), AX
	MOVQ	32(SP), BX
	JMP	call
drain:
	CALL	·callbackEnds(SB)
	GO
	RET

// The same without a look at the spare words.
TEXT ·drainEndOfCallback(SB), NOSPLIT, $48-0
	NO_LOCAL_POINTERS
	MOVQ	AX, 24(SP)
	MOVQ	BX, 32(SP)
	MOVQ	CX, 40(SP)
	CALL	·callbackBegins(SB)
	GO
	MOVQ	24(SP), AX
	MOVQ	32(SP), BX
	MOVQ	40(SP), CX
	MOVQ	·common+commonState_nextOfCallback(SB), DX
	CALL	DX
	CALL	·callbackEnds(SB)
	GO
	RET

// func entryPoints(spareWords bool) (byReturn, byGoexit, ofProcess, ofCoroutine, ofCallback uintptr)
TEXT ·entryPoints(SB), NOSPLIT, $0-48
	CMPB	spareWords+0(FP), $0
	JEQ	map
	// Each pair: the address of a function's first instruction, into one result.
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
