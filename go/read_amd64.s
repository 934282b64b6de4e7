#include "go_asm.h"
#include "textflag.h"

// RECORD leaves the running goroutine's record in CX, or jumps to none. R14 is g. RECORD preserves
// AX.
#define RECORD(none)					\
	MOVQ	8(R14), DX         /* g.stack.hi */	\
	MOVQ	-8(DX), CX         /* index, or leftover data */ \
	CMPQ	CX, $(const_maxChunks*const_chunkRecords) \
	JAE	none               /* leftover data */	\
	MOVL	CX, BX					\
	SHRL	$8, BX             /* / chunkRecords: the chunk */ \
	LEAQ	·chunks(SB), DX				\
	MOVQ	(DX)(BX*8), DX     /* chunks[index / chunkRecords] */ \
	TESTQ	DX, DX					\
	JEQ	none               /* removed: a stale index */ \
	MOVBLZX	CX, CX             /* index % chunkRecords */ \
	SHLL	$8, CX             /* * recordSize */	\
	ADDQ	DX, CX             /* the record */	\
	CMPQ	R14, record_owner(CX) /* is it g's? */	\
	JNE	none               /* a stale index */

// ARMED jumps to none if this stack is not armed, in slot mode. The index at its base may then be that of
// an earlier goroutine which had the same descriptor and the same stack, and whose record still waits to
// be drained.
#define ARMED(none)					\
	MOVQ	8(R14), DX         /* g.stack.hi */	\
	MOVQ	-40(DX), CX				\
	CMPQ	CX, ·armedFoot(SB)			\
	JNE	none

// VALUE returns the address of the value of the local in the first register, and leaves its caller.
#define VALUE					\
	RECORD(none)				\
	MOVQ	localBase_offset(AX), BX	\
	TESTQ	BX, BX				\
	JGE	other      /* the highest bit is not set */ \
	LEAQ	4096(CX)(BX*1), AX /* offsetBias; a value in the record is zero if not set */ \
	RET					\
other:						\
	SUBQ	$256, BX   /* recordSize */	\
	CMPQ	BX, $256			\
	JAE	slow       /* not one of the first locals, or an invalid one */ \
	MOVQ	(CX)(BX*1), CX /* the value's address, from the record */ \
	TESTQ	CX, CX				\
	JEQ	zero       /* not set */	\
	MOVQ	CX, AX				\
	RET					\
none:						\
	CMPL	·common+commonState_mapped(SB), $0 \
	JNE	slow       /* some records are in the map, perhaps this goroutine's */ \
zero:						\
	MOVQ	localBase_zero(AX), CX		\
	TESTQ	CX, CX				\
	JEQ	slow       /* it has an initial value, or is invalid */ \
	MOVQ	CX, AX				\
	RET					\
slow:						\
	MOVQ	·common+commonState_slow(SB), DX /* a function value, in the register for its closure */ \
	MOVQ	(DX), CX   /* its code */	\
	JMP	CX         /* with l still in AX; it returns to our caller */

// func(l *localBase) unsafe.Pointer, with l and the result in AX
TEXT ·valueInRegisters(SB), NOSPLIT|NOFRAME, $0-0
	PCALIGN	$64                // at an odd multiple of 32 a read takes up to a quarter longer
	VALUE

// The same in slot mode. The code is there twice, so that a read has no further jump.
TEXT ·valueInSlotMode(SB), NOSPLIT|NOFRAME, $0-0
	PCALIGN	$64                // at an odd multiple of 32 a read takes up to a quarter longer
	ARMED(none)
	VALUE

// func() *record, with the result in AX
TEXT ·currentInRegisters(SB), NOSPLIT|NOFRAME, $0-0
	RECORD(none)
	MOVQ	CX, AX
	RET
none:
	XORL	AX, AX             // nil
	RET

// The same in slot mode.
TEXT ·currentInSlotMode(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(none)
	RECORD(none)
	MOVQ	CX, AX
	RET
none:
	XORL	AX, AX             // nil
	RET

// func registerFunctions() (value, current uintptr)
TEXT ·registerFunctions(SB), NOSPLIT, $0-16
	LEAQ	·valueInRegisters(SB), AX
	MOVQ	AX, value+0(FP)
	LEAQ	·currentInRegisters(SB), AX
	MOVQ	AX, current+8(FP)
	RET

// func slotFunctions() (value, current uintptr)
TEXT ·slotFunctions(SB), NOSPLIT, $0-16
	LEAQ	·valueInSlotMode(SB), AX
	MOVQ	AX, value+0(FP)
	LEAQ	·currentInSlotMode(SB), AX
	MOVQ	AX, current+8(FP)
	RET
