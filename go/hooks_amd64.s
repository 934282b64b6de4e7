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
TEXT ·returnHook(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	PCALIGN	$8                    // so that one store can replace it:
	JMP	·jumpToReturnTarget(SB)     // soon a jump to goexit1 itself, see shorten_linux.go
drain:
	JMP	·returnHookSlow(SB) // apart: it has a frame, which this function must not pay for

TEXT ·jumpToReturnTarget(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	·common+commonState_returnTarget(SB), DX // goexit1, ...
	JMP	DX                                       // ... as if it had been called from goexit

// Its prologue may grow the stack: nothing is in a register that matters.
TEXT ·returnHookSlow(SB), 0, $8-0
	NO_LOCAL_POINTERS  // the frame holds nothing: a stack that is copied needs to be told
	CALL	·drainGoroutine(SB)
	GO
	MOVQ	·common+commonState_returnTarget(SB), DX // goexit1, ...
	CALL	DX                                       // ... which never comes back
	UNDEF                                            // so nothing follows

// func callReturnTarget()
TEXT ·callReturnTarget(SB), NOSPLIT, $8-0
	NO_LOCAL_POINTERS
	MOVQ	·common+commonState_returnTarget(SB), DX // goexit1; g and X15 are as Go left them
	CALL	DX
	UNDEF

// runtime.Goexit, after the deferred functions: call runtime.goexit1.
TEXT ·goexitHook(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_goexitTarget(SB), DX // goexit1; unoptimized builds may call another wrapper of it
	JMP	DX
drain:
	JMP	·goexitHookSlow(SB)

TEXT ·goexitHookSlow(SB), 0, $8-0
	NO_LOCAL_POINTERS
	CALL	·drainGoroutine(SB)
	GO
	MOVQ	·common+commonState_goexitTarget(SB), DX
	CALL	DX    // never comes back
	UNDEF

// runtime.main and os.runtime_beforeExit: call exithook.Run or runtime.runExitHooks, with the exit code in AX.
TEXT ·processHook(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_processTarget(SB), DX // exithook.Run, with the exit code still in AX
	JMP	DX
drain:
	JMP	·processHookSlow(SB)

// NOSPLIT: a prologue that grows the stack would lose AX.
TEXT ·processHookSlow(SB), NOSPLIT, $16-0
	NO_LOCAL_POINTERS
	MOVQ	AX, 8(SP)     // the exit code, kept
	MOVQ	AX, 0(SP)     // and given as an argument
	CALL	·drainProcess(SB)
	GO
	MOVQ	8(SP), AX     // the argument of exithook.Run
	MOVQ	·common+commonState_processTarget(SB), DX
	CALL	DX
	RET                   // to runtime.main or os.runtime_beforeExit, which exit

// runtime.corostart's deferred call: call runtime.coroexit(c), or runtime.mcall(coroswitch_m) where coroexit was inlined. The argument in AX
// is reachable elsewhere (c by the frame of corostart, the function from read-only data), so the frame may hide it.
TEXT ·coroutineHook(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_coroutineTarget(SB), DX // coroexit or mcall, with its argument still in AX
	JMP	DX
drain:
	JMP	·coroutineHookSlow(SB)

TEXT ·coroutineHookSlow(SB), NOSPLIT, $16-0
	NO_LOCAL_POINTERS
	MOVQ	(TLS), CX
	MOVQ	CX, 0(SP)          // first argument: g
	MOVQ	AX, 8(SP)          // second: what the redirected call was given
	CALL	·drainCoroutine(SB) // does not return
	UNDEF

// func callCoroutineTarget(argument uintptr)
TEXT ·callCoroutineTarget(SB), NOSPLIT, $8-8
	NO_LOCAL_POINTERS
	MOVQ	argument+0(FP), AX // where compiled code expects the first argument
	GO
	MOVQ	·common+commonState_coroutineTarget(SB), DX
	CALL	DX
	UNDEF

// runtime.cgocallbackg: call runtime.cgocallbackg1(fn, frame, ctxt). What there is to do comes after it, but for what an unnoticed callback
// has left. The frame has room for the three arguments, which the callee may spill (it describes them itself when the stack is
// copied), and for our copies: none is a pointer into Go's memory.
TEXT ·callbackHook(SB), NOSPLIT, $48-0
	NO_LOCAL_POINTERS
	MOVQ	AX, 24(SP)         // fn
	MOVQ	BX, 32(SP)         // frame
	MOVQ	CX, 40(SP)         // ctxt
	ARMED(left)                // changes CX
call:
	MOVQ	40(SP), CX
	MOVQ	·common+commonState_callbackTarget(SB), DX // cgocallbackg1
	CALL	DX                 // runs the Go function
	ARMED(drain)
	RET                        // to cgocallbackg
left:
	CALL	·drainStaleCallback(SB)
	GO
	MOVQ	24(SP), AX
	MOVQ	32(SP), BX
	JMP	call
drain:
	CALL	·drainCallback(SB)
	GO
	RET

// The same without a look at the spare words.
TEXT ·callbackHookSlow(SB), NOSPLIT, $48-0
	NO_LOCAL_POINTERS
	MOVQ	AX, 24(SP)
	MOVQ	BX, 32(SP)
	MOVQ	CX, 40(SP)
	CALL	·drainStaleCallback(SB)
	GO
	MOVQ	24(SP), AX
	MOVQ	32(SP), BX
	MOVQ	40(SP), CX
	MOVQ	·common+commonState_callbackTarget(SB), DX
	CALL	DX
	CALL	·drainCallback(SB)
	GO
	RET

// func hookAddresses(spareWords bool) (atReturn, atGoexit, atProcessExit, atCoroutineExit, atCallback uintptr)
TEXT ·hookAddresses(SB), NOSPLIT, $0-48
	CMPB	spareWords+0(FP), $0
	JEQ	map
	// Each pair: the address of a function's first instruction, into one result.
	LEAQ	·returnHook(SB), AX
	MOVQ	AX, atReturn+8(FP)
	LEAQ	·goexitHook(SB), AX
	MOVQ	AX, atGoexit+16(FP)
	LEAQ	·processHook(SB), AX
	MOVQ	AX, atProcessExit+24(FP)
	LEAQ	·coroutineHook(SB), AX
	MOVQ	AX, atCoroutineExit+32(FP)
	LEAQ	·callbackHook(SB), AX
	MOVQ	AX, atCallback+40(FP)
	RET
map:
	LEAQ	·returnHookSlow(SB), AX
	MOVQ	AX, atReturn+8(FP)
	LEAQ	·goexitHookSlow(SB), AX
	MOVQ	AX, atGoexit+16(FP)
	LEAQ	·processHookSlow(SB), AX
	MOVQ	AX, atProcessExit+24(FP)
	LEAQ	·coroutineHookSlow(SB), AX
	MOVQ	AX, atCoroutineExit+32(FP)
	LEAQ	·callbackHookSlow(SB), AX
	MOVQ	AX, atCallback+40(FP)
	RET
