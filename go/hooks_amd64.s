//go:build linux

#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// The hooks: what the redirected calls lead to. Each hook takes the place of the original callee.
// The return address on the stack is the runtime's own, so stack growth, garbage collection and
// tracebacks find no unknown frames.
//
// A goroutine that has not used the package pays for ARMED and a jump. Compiled code calls some
// hooks by ABIInternal: R14 is g and X15 is zero, at the call and wherever compiled code is called
// from here. Arguments are in AX, BX, CX, and the callee may spill them to the first words of its
// caller's frame.

// ARMED jumps to yes if the running goroutine may have a record, which its check word says (see
// stack.go). The Go code that follows decides. ARMED preserves AX.
#define ARMED(yes)								\
	MOVQ	(TLS), CX				/* g */			\
	MOVQ	8(CX), DX				/* g.stack.hi */	\
	ADDQ	-8(DX), CX				/* g + index */		\
	XORQ	·common+commonState_secret(SB), CX	/* ^ secret */		\
	CMPQ	CX, -16(DX)				/* the check word? */	\
	JEQ	yes

// GO restores the registers that compiled Go code expects, after a call by the stack-based ABI.
#define GO						\
	MOVQ	(TLS), R14	/* g */			\
	XORPS	X15, X15	/* always zero */

// runtime.goexit, to which a goroutine's entry function returns, calls runtime.goexit1.
TEXT ·returnHook(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	PCALIGN	$8                    // one store can then replace this jump:
	JMP	·jumpToReturnTarget(SB)     // later a jump to goexit1 itself, see direct_linux.go
drain:
	JMP	·returnHookSlow(SB) // separate, because it needs a frame

TEXT ·jumpToReturnTarget(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	·common+commonState_returnTarget(SB), DX // goexit1, ...
	JMP	DX                                       // ... as if called by goexit

// The prologue may grow the stack: no register holds anything that is needed.
TEXT ·returnHookSlow(SB), 0, $8-0
	NO_LOCAL_POINTERS  // the frame holds no pointers; stack copying needs this
	CALL	·drainGoroutine(SB)
	GO
	MOVQ	·common+commonState_returnTarget(SB), DX // goexit1, ...
	CALL	DX                                       // ... which never returns
	UNDEF                                            // not reached

// func callReturnTarget()
TEXT ·callReturnTarget(SB), NOSPLIT, $8-0
	NO_LOCAL_POINTERS
	MOVQ	·common+commonState_returnTarget(SB), DX // goexit1; g and X15 are as Go left them
	CALL	DX
	UNDEF

// runtime.Goexit calls runtime.goexit1 after the deferred functions.
TEXT ·goexitHook(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_goexitTarget(SB), DX // goexit1, or a wrapper in unoptimized builds
	JMP	DX
drain:
	JMP	·goexitHookSlow(SB)

TEXT ·goexitHookSlow(SB), 0, $8-0
	NO_LOCAL_POINTERS
	CALL	·drainGoexit(SB)
	GO
	MOVQ	·common+commonState_goexitTarget(SB), DX
	CALL	DX    // never returns
	UNDEF

// When a panic is recovered, runtime.recovery calls runtime.gogo(buf) on the system's stack. gogo goes
// on in the frame that had deferred the function which called recover, where that frame returns.
// recoveryHook stores the address to which it returns, and how far it is from the stack's base, if no
// frame nearer to the base has recovered a panic: the entry function's is the nearest, and the last.
// buf.bp is where the frame has its caller's frame pointer, below the return address. R14 is g0, and
// buf.g the goroutine.
TEXT ·recoveryHook(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	16(AX), CX                            // buf.g
	MOVQ	8(CX), DX                             // g.stack.hi
	ADDQ	-8(DX), CX                            // as in ARMED
	XORQ	·common+commonState_secret(SB), CX
	CMPQ	CX, -16(DX)
	JNE	recover
	MOVQ	const_gobufBP(AX), CX                 // buf.bp
	MOVQ	DX, BX
	SUBQ	CX, BX                                // how far it is from the base
	CMPQ	BX, -32(DX)
	JHI	recover
	MOVQ	BX, -32(DX)
	MOVQ	8(CX), CX
	MOVQ	CX, -24(DX)
recover:
	MOVQ	·common+commonState_recoveryTarget(SB), DX // gogo, buf still in AX
	JMP	DX

// runtime.goexit0 calls runtime.gdestroy(gp) on the system's stack, with gp in AX. The record is found
// as in read_amd64.s. Only its own goroutine has used it, and that has ended.
TEXT ·destroyHook(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ	8(AX), DX                             // gp.stack.hi
	MOVQ	-8(DX), SI                            // the index
	LEAQ	(AX)(SI*1), CX                        // as in ARMED
	XORQ	·common+commonState_secret(SB), CX
	CMPQ	CX, -16(DX)
	JEQ	unnoticed
destroy:
	MOVQ	·common+commonState_destroyTarget(SB), DX // gdestroy, gp still in AX
	JMP	DX
unnoticed:
	MOVQ	$0, -16(DX)                           // as clearSpareWords
	MOVQ	$0, -8(DX)
	TESTQ	SI, SI
	JEQ	destroy                               // the record is in the map
	CMPQ	SI, $(const_maxChunks*const_chunkRecords)
	JAE	destroy
	MOVL	SI, BX
	SHRL	$8, BX
	LEAQ	·chunks(SB), DX
	MOVQ	(DX)(BX*8), DX                        // chunks[index / chunkRecords]
	TESTQ	DX, DX
	JEQ	destroy
	MOVBLZX	SI, CX
	SHLL	$8, CX
	ADDQ	DX, CX                                // the record
	CMPQ	AX, record_owner(CX)
	JNE	destroy
	// An earlier stack of this goroutine, from before it grew, may become that of a new goroutine with
	// the same descriptor. It still has the check word and the index: without owner they count for nothing.
	MOVQ	$0, record_owner(CX)
	MOVQ	AX, DI                                // CMPXCHG needs AX
	LEAQ	·common+commonState_unnoticed(SB), DX
next:
	MOVL	(DX), AX
	MOVL	AX, record_running(CX)
	LOCK
	CMPXCHGL	SI, (DX)
	JNE	next
	MOVQ	DI, AX
	JMP	destroy

// func destroyHookAddress() uintptr
TEXT ·destroyHookAddress(SB), NOSPLIT, $0-8
	LEAQ	·destroyHook(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

// runtime.main and os.runtime_beforeExit call exithook.Run or runtime.runExitHooks, with the exit
// code in AX.
TEXT ·processHook(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_processTarget(SB), DX // exithook.Run, exit code still in AX
	JMP	DX
drain:
	JMP	·processHookSlow(SB)

// NOSPLIT: a prologue that grows the stack would lose AX.
TEXT ·processHookSlow(SB), NOSPLIT, $16-0
	NO_LOCAL_POINTERS
	MOVQ	AX, 8(SP)     // save the exit code
	MOVQ	AX, 0(SP)     // and pass it as the argument
	CALL	·drainProcess(SB)
	GO
	MOVQ	8(SP), AX     // the argument of exithook.Run
	MOVQ	·common+commonState_processTarget(SB), DX
	CALL	DX
	RET                   // to runtime.main or os.runtime_beforeExit, which exit

// runtime.corostart's deferred function calls runtime.coroexit(c), or runtime.mcall(coroswitch_m)
// where coroexit is inlined. The argument in AX is reachable elsewhere (c from the frame of
// corostart, the function from read-only data), so this frame need not describe it.
TEXT ·coroutineHook(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVQ	·common+commonState_coroutineTarget(SB), DX // coroexit or mcall, argument still in AX
	JMP	DX
drain:
	JMP	·coroutineHookSlow(SB)

TEXT ·coroutineHookSlow(SB), NOSPLIT, $16-0
	NO_LOCAL_POINTERS
	MOVQ	(TLS), CX
	MOVQ	CX, 0(SP)          // first argument: g
	MOVQ	AX, 8(SP)          // second: the redirected call's argument
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

// runtime.cgocallbackg calls runtime.cgocallbackg1(fn, frame, ctxt). The callback is drained after
// that call; before it, only one that returned unnoticed. The frame has room for the three
// arguments, which the callee may spill (it describes them itself when the stack is copied), and
// for copies of them. None is a pointer into Go's memory.
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

// callbackHookSlow is callbackHook without the test of the spare words.
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

// func hookAddresses(spareWords bool) (atReturn, atGoexit, ..., atCallback, atRecovery uintptr)
TEXT ·hookAddresses(SB), NOSPLIT, $0-56
	LEAQ	·recoveryHook(SB), AX
	MOVQ	AX, atRecovery+48(FP)
	CMPB	spareWords+0(FP), $0
	JEQ	map
	// Each pair stores the address of a function's first instruction in one result.
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
