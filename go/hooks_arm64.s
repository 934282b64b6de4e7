//go:build linux

#include "go_asm.h"
#include "textflag.h"
#include "funcdata.h"

// The hooks: what the redirected calls lead to. Each hook takes the place of the original callee.
// The return address in the link register is the runtime's own, so stack growth, garbage collection
// and tracebacks find no unknown frames.
//
// A goroutine that has not used the package pays for ARMED and a branch. Compiled code calls some
// hooks by ABIInternal: arguments are in R0, R1, R2, and the callee may spill them to its caller's
// frame, from 8(RSP) on.

// ARMED branches to yes if the running goroutine may have a record, which its check word says (see
// stack.go). The Go code that follows decides. ARMED preserves R0.
#define ARMED(yes)								\
	MOVD	8(g), R9				/* g.stack.hi */	\
	LDP	-16(R9), (R10, R11)			/* check word, index */	\
	MOVD	·common+commonState_secret(SB), R12				\
	ADD	g, R11, R11				/* g + index */		\
	EOR	R11, R12, R12				/* ^ secret */		\
	CMP	R10, R12				/* the check word? */	\
	BEQ	yes

// runtime.goexit, to which a goroutine's entry function returns, calls runtime.goexit1.
TEXT ·returnHook(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	JMP	·jumpToReturnTarget(SB)     // later a branch to goexit1 itself, see direct_linux.go
drain:
	JMP	·returnHookSlow(SB) // separate, because it needs a frame

TEXT ·jumpToReturnTarget(SB), NOSPLIT|NOFRAME, $0-0
	MOVD	·common+commonState_returnTarget(SB), R9 // goexit1, ...
	JMP	(R9)                                     // ... as if called by goexit: LR is unchanged

// The prologue may grow the stack: no register holds anything that is needed. It saves LR.
TEXT ·returnHookSlow(SB), 0, $8-0
	NO_LOCAL_POINTERS  // the frame holds no pointers; stack copying needs this
	CALL	·drainGoroutine(SB)
	MOVD	·common+commonState_returnTarget(SB), R9 // goexit1, ...
	CALL	(R9)                                     // ... which never returns
	UNDEF                                            // not reached

// func callReturnTarget()
TEXT ·callReturnTarget(SB), NOSPLIT, $8-0
	NO_LOCAL_POINTERS
	MOVD	·common+commonState_returnTarget(SB), R9
	CALL	(R9)
	UNDEF

// runtime.Goexit calls runtime.goexit1 after the deferred functions.
TEXT ·goexitHook(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVD	·common+commonState_goexitTarget(SB), R9 // goexit1, or a wrapper in unoptimized builds
	JMP	(R9)
drain:
	JMP	·goexitHookSlow(SB)

TEXT ·goexitHookSlow(SB), 0, $8-0
	NO_LOCAL_POINTERS
	CALL	·drainGoexit(SB)
	MOVD	·common+commonState_goexitTarget(SB), R9
	CALL	(R9)  // never returns
	UNDEF

// When a panic is recovered, runtime.recovery calls runtime.gogo(buf) on the system's stack. gogo goes
// on in the frame that had deferred the function which called recover, where that frame returns.
// recoveryHook stores the address to which it returns, and how far it is from the stack's base, if no
// frame nearer to the base has recovered a panic: the entry function's is the nearest, and the last.
// The address is the word at buf.sp. The register g is g0, and buf.g the goroutine.
TEXT ·recoveryHook(SB), NOSPLIT|NOFRAME, $0-0
	MOVD	16(R0), R9                            // buf.g
	MOVD	8(R9), R10                            // g.stack.hi
	LDP	-16(R10), (R11, R12)                  // as in ARMED
	MOVD	·common+commonState_secret(SB), R13
	ADD	R9, R12, R12
	EOR	R12, R13, R13
	CMP	R11, R13
	BNE	recover
	MOVD	(R0), R11                             // buf.sp
	SUB	R11, R10, R12                         // how far it is from the base
	MOVD	-32(R10), R13
	CMP	R13, R12
	BHI	recover
	MOVD	(R11), R11
	STP	(R12, R11), -32(R10)
recover:
	MOVD	·common+commonState_recoveryTarget(SB), R9 // gogo, buf still in R0
	JMP	(R9)

// runtime.goexit0 calls runtime.gdestroy(gp) on the system's stack, with gp in R0. The record is found
// as in read_arm64.s. Only its own goroutine has used it, and that has ended.
TEXT ·destroyHook(SB), NOSPLIT|NOFRAME, $0-0
	MOVD	8(R0), R9                             // gp.stack.hi
	LDP	-16(R9), (R10, R11)                   // check word, index
	MOVD	·common+commonState_secret(SB), R12
	ADD	R0, R11, R13                          // as in ARMED
	EOR	R13, R12, R12
	CMP	R10, R12
	BEQ	unnoticed
destroy:
	MOVD	·common+commonState_destroyTarget(SB), R9 // gdestroy, gp still in R0
	JMP	(R9)
unnoticed:
	STP	(ZR, ZR), -16(R9)                     // as clearSpareWords
	CBZ	R11, destroy                          // the record is in the map
	LSR	$21, R11, R10                         // / (maxChunks * chunkRecords)
	CBNZ	R10, destroy
	LSR	$8, R11, R12
	MOVD	$·chunks(SB), R10
	MOVD	(R10)(R12<<3), R10                    // chunks[index / chunkRecords]
	CBZ	R10, destroy
	AND	$0xff, R11, R12
	ADD	R12<<8, R10, R10                      // the record
	MOVD	record_owner(R10), R12
	CMP	R12, R0
	BNE	destroy
	// An earlier stack of this goroutine, from before it grew, may become that of a new goroutine with
	// the same descriptor. It still has the check word and the index: without owner they count for nothing.
	MOVD	ZR, record_owner(R10)
	MOVD	$·common+commonState_unnoticed(SB), R9
next:
	LDAXRW	(R9), R12
	MOVW	R12, record_running(R10)
	STLXRW	R11, (R9), R13
	CBNZ	R13, next
	JMP	destroy

// func destroyHookAddress() uintptr
TEXT ·destroyHookAddress(SB), NOSPLIT, $0-8
	MOVD	$·destroyHook(SB), R0
	MOVD	R0, ret+0(FP)
	RET

// runtime.main and os.runtime_beforeExit call exithook.Run or runtime.runExitHooks, with the exit
// code in R0.
TEXT ·processHook(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVD	·common+commonState_processTarget(SB), R9 // exithook.Run, exit code still in R0
	JMP	(R9)
drain:
	JMP	·processHookSlow(SB)

// NOSPLIT: a prologue that grows the stack would lose R0.
TEXT ·processHookSlow(SB), NOSPLIT, $24-0
	NO_LOCAL_POINTERS
	MOVD	R0, 16(RSP)   // save the exit code
	MOVD	R0, 8(RSP)    // and pass it as the argument: the first word above the saved LR
	CALL	·drainProcess(SB)
	MOVD	16(RSP), R0   // the argument of exithook.Run
	MOVD	·common+commonState_processTarget(SB), R9
	CALL	(R9)
	RET                   // to runtime.main or os.runtime_beforeExit, which exit

// runtime.corostart's deferred function calls runtime.coroexit(c), or runtime.mcall(coroswitch_m)
// where coroexit is inlined. The argument in R0 is reachable elsewhere (c from the frame of
// corostart, the function from read-only data), so this frame need not describe it.
TEXT ·coroutineHook(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(drain)
	MOVD	·common+commonState_coroutineTarget(SB), R9 // coroexit or mcall, argument still in R0
	JMP	(R9)
drain:
	JMP	·coroutineHookSlow(SB)

TEXT ·coroutineHookSlow(SB), NOSPLIT, $24-0
	NO_LOCAL_POINTERS
	MOVD	g, 8(RSP)          // first argument
	MOVD	R0, 16(RSP)        // second: the redirected call's argument
	CALL	·drainCoroutine(SB) // does not return
	UNDEF

// func callCoroutineTarget(argument uintptr)
TEXT ·callCoroutineTarget(SB), NOSPLIT, $24-8
	NO_LOCAL_POINTERS
	MOVD	argument+0(FP), R0 // where compiled code expects the first argument
	MOVD	·common+commonState_coroutineTarget(SB), R9
	CALL	(R9)
	UNDEF

// runtime.cgocallbackg calls runtime.cgocallbackg1(fn, frame, ctxt). The callback is drained after
// that call; before it, only one that returned unnoticed. The frame has room for the three
// arguments, which the callee may spill (it describes them itself when the stack is copied), and
// for copies of them. None is a pointer into Go's memory.
TEXT ·callbackHook(SB), NOSPLIT, $56-0
	NO_LOCAL_POINTERS
	ARMED(left)                // preserves the arguments fn, frame and ctxt, in R0, R1 and R2
call:
	MOVD	·common+commonState_callbackTarget(SB), R9 // cgocallbackg1
	CALL	(R9)               // runs the Go function
	ARMED(drain)
	RET                        // to cgocallbackg
left:
	STP	(R0, R1), 32(RSP)
	MOVD	R2, 48(RSP)
	CALL	·drainStaleCallback(SB)
	LDP	32(RSP), (R0, R1)
	MOVD	48(RSP), R2
	JMP	call
drain:
	CALL	·drainCallback(SB)
	RET

// callbackHookSlow is callbackHook without the test of the spare words.
TEXT ·callbackHookSlow(SB), NOSPLIT, $56-0
	NO_LOCAL_POINTERS
	STP	(R0, R1), 32(RSP)
	MOVD	R2, 48(RSP)
	CALL	·drainStaleCallback(SB)
	LDP	32(RSP), (R0, R1)
	MOVD	48(RSP), R2
	MOVD	·common+commonState_callbackTarget(SB), R9
	CALL	(R9)
	CALL	·drainCallback(SB)
	RET

// func hookAddresses(spareWords bool) (atReturn, atGoexit, ..., atCallback, atRecovery uintptr)
TEXT ·hookAddresses(SB), NOSPLIT, $0-56
	MOVD	$·recoveryHook(SB), R0
	MOVD	R0, atRecovery+48(FP)
	MOVBU	spareWords+0(FP), R0
	CBZ	R0, map
	// Each pair stores the address of a function's first instruction in one result.
	MOVD	$·returnHook(SB), R0
	MOVD	R0, atReturn+8(FP)
	MOVD	$·goexitHook(SB), R0
	MOVD	R0, atGoexit+16(FP)
	MOVD	$·processHook(SB), R0
	MOVD	R0, atProcessExit+24(FP)
	MOVD	$·coroutineHook(SB), R0
	MOVD	R0, atCoroutineExit+32(FP)
	MOVD	$·callbackHook(SB), R0
	MOVD	R0, atCallback+40(FP)
	RET
map:
	MOVD	$·returnHookSlow(SB), R0
	MOVD	R0, atReturn+8(FP)
	MOVD	$·goexitHookSlow(SB), R0
	MOVD	R0, atGoexit+16(FP)
	MOVD	$·processHookSlow(SB), R0
	MOVD	R0, atProcessExit+24(FP)
	MOVD	$·coroutineHookSlow(SB), R0
	MOVD	R0, atCoroutineExit+32(FP)
	MOVD	$·callbackHookSlow(SB), R0
	MOVD	R0, atCallback+40(FP)
	RET
