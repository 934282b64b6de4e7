#include "go_asm.h"
#include "textflag.h"

// RECORD leaves the running goroutine's record in R1, or branches to none. RECORD preserves R0.
#define RECORD(none)						\
	MOVD	8(g), R2           /* g.stack.hi */		\
	MOVD	-8(R2), R1         /* index, or leftover data */	\
	LSR	$21, R1, R2        /* / (maxChunks * chunkRecords) */ \
	CBNZ	R2, none           /* leftover data */		\
	LSR	$8, R1, R4         /* / chunkRecords: the chunk */ \
	MOVD	$·chunks(SB), R2				\
	MOVD	(R2)(R4<<3), R2    /* chunks[index / chunkRecords] */ \
	CBZ	R2, none           /* removed: a stale index */ \
	AND	$0xff, R1, R1      /* index % chunkRecords */	\
	ADD	R1<<8, R2, R1      /* * recordSize: the record */ \
	MOVD	record_owner(R1), R3				\
	CMP	R3, g              /* is it g's? */		\
	BNE	none               /* a stale index */

// ARMED branches to none if this stack is not armed, in slot mode. The index at its base may then be that
// of an earlier goroutine which had the same descriptor and the same stack, and whose record still waits to
// be drained.
#define ARMED(none)						\
	MOVD	8(g), R2           /* g.stack.hi */		\
	MOVD	-48(R2), R1					\
	MOVD	·armedFoot(SB), R3				\
	CMP	R1, R3						\
	BNE	none

// VALUE returns the address of the value of the local in the first register, and leaves its caller.
#define VALUE						\
	RECORD(none)					\
	MOVD	localBase_offset(R0), R2		\
	TBZ	$63, R2, other /* the highest bit is not set */ \
	ADD	R2, R1, R0				\
	ADD	$4096, R0  /* offsetBias; a value in the record is zero if not set */ \
	RET						\
other:							\
	SUB	$256, R2, R2				\
	CMP	$256, R2				\
	BHS	slow       /* not one of the first locals, or an invalid one */ \
	MOVD	(R1)(R2), R1 /* the value's address, from the record */ \
	CBZ	R1, zero   /* not set */		\
	MOVD	R1, R0					\
	RET						\
none:							\
	MOVWU	·common+commonState_mapped(SB), R2	\
	CBNZ	R2, slow   /* some records are in the map, perhaps this goroutine's */ \
zero:							\
	MOVD	localBase_zero(R0), R1			\
	CBZ	R1, slow   /* it has an initial value, or is invalid */ \
	MOVD	R1, R0					\
	RET						\
slow:							\
	MOVD	·common+commonState_slow(SB), R26 /* a function value, in the register for its closure */ \
	MOVD	(R26), R1  /* its code */		\
	JMP	(R1)       /* with l still in R0; it returns to our caller */

// func(l *localBase) unsafe.Pointer, with l and the result in R0
TEXT ·valueInRegisters(SB), NOSPLIT|NOFRAME, $0-0
	VALUE

// The same in slot mode. The code is there twice, so that a read has no further jump.
TEXT ·valueInSlotMode(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(none)
	VALUE

// func() *record, with the result in R0
TEXT ·currentInRegisters(SB), NOSPLIT|NOFRAME, $0-0
	RECORD(none)
	MOVD	R1, R0
	RET
none:
	MOVD	ZR, R0             // nil
	RET

// The same in slot mode.
TEXT ·currentInSlotMode(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(none)
	RECORD(none)
	MOVD	R1, R0
	RET
none:
	MOVD	ZR, R0             // nil
	RET

// func registerFunctions() (value, current uintptr)
TEXT ·registerFunctions(SB), NOSPLIT, $0-16
	MOVD	$·valueInRegisters(SB), R0
	MOVD	R0, value+0(FP)
	MOVD	$·currentInRegisters(SB), R0
	MOVD	R0, current+8(FP)
	RET

// func slotFunctions() (value, current uintptr)
TEXT ·slotFunctions(SB), NOSPLIT, $0-16
	MOVD	$·valueInSlotMode(SB), R0
	MOVD	R0, value+0(FP)
	MOVD	$·currentInSlotMode(SB), R0
	MOVD	R0, current+8(FP)
	RET
