#include "go_asm.h"
#include "textflag.h"

// RECORD leaves the running goroutine's record in X6, or branches to none. RECORD preserves X10.
#define RECORD(none)						\
	MOV	8(g), X5           /* g.stack.hi */		\
	MOV	-8(X5), X6         /* index, or leftover data */	\
	SRL	$21, X6, X7        /* / (maxChunks * chunkRecords) */ \
	BNE	X7, ZERO, none     /* leftover data */		\
	SRL	$8, X6, X7         /* / chunkRecords: the chunk */ \
	SLL	$3, X7, X7					\
	MOV	$·chunks(SB), X5				\
	ADD	X7, X5, X5					\
	MOV	(X5), X5           /* chunks[index / chunkRecords] */ \
	BEQ	X5, ZERO, none     /* removed: a stale index */ \
	AND	$0xff, X6, X6      /* index % chunkRecords */	\
	SLL	$8, X6, X6         /* * recordSize */		\
	ADD	X5, X6, X6         /* the record */		\
	MOV	record_owner(X6), X7				\
	BNE	X7, g, none        /* a stale index */

// ARMED branches to none if this stack is not armed, in slot mode. The index at its base may then be that
// of an earlier goroutine which had the same descriptor and the same stack, and whose record still waits to
// be drained.
#define ARMED(none)						\
	MOV	8(g), X5           /* g.stack.hi */		\
	MOV	-40(X5), X6					\
	MOV	·armedFoot(SB), X7				\
	BNE	X6, X7, none

// VALUE returns the address of the value of the local in the first register, and leaves its caller.
#define VALUE						\
	RECORD(none)					\
	MOV	localBase_offset(X10), X7		\
	BGE	X7, ZERO, other /* the highest bit is not set */ \
	ADD	X7, X6, X10				\
	MOV	$4096, X7  /* offsetBias; a value in the record is zero if not set */ \
	ADD	X7, X10, X10				\
	RET						\
other:							\
	ADD	$-256, X7, X7 /* recordSize */		\
	MOV	$256, X5				\
	BGEU	X7, X5, slow /* not one of the first locals, or an invalid one */ \
	ADD	X7, X6, X6				\
	MOV	(X6), X6   /* the value's address, from the record */ \
	BEQ	X6, ZERO, zero /* not set */		\
	MOV	X6, X10					\
	RET						\
none:							\
	MOVWU	·common+commonState_mapped(SB), X7	\
	BNE	X7, ZERO, slow /* some records are in the map, perhaps this goroutine's */ \
zero:							\
	MOV	localBase_zero(X10), X6			\
	BEQ	X6, ZERO, slow /* it has an initial value, or is invalid */ \
	MOV	X6, X10					\
	RET						\
slow:							\
	MOV	·common+commonState_slow(SB), X26 /* a function value, in the register for its closure */ \
	MOV	(X26), X6  /* its code */		\
	JMP	(X6)       /* with l still in X10; it returns to our caller */

// func(l *localBase) unsafe.Pointer, with l and the result in X10
TEXT ·valueInRegisters(SB), NOSPLIT|NOFRAME, $0-0
	VALUE

// The same in slot mode. The code is there twice, so that a read has no further jump.
TEXT ·valueInSlotMode(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(none)
	VALUE

// func() *record, with the result in X10
TEXT ·currentInRegisters(SB), NOSPLIT|NOFRAME, $0-0
	RECORD(none)
	MOV	X6, X10
	RET
none:
	MOV	ZERO, X10          // nil
	RET

// The same in slot mode.
TEXT ·currentInSlotMode(SB), NOSPLIT|NOFRAME, $0-0
	ARMED(none)
	RECORD(none)
	MOV	X6, X10
	RET
none:
	MOV	ZERO, X10          // nil
	RET

// func registerFunctions() (value, current uintptr)
TEXT ·registerFunctions(SB), NOSPLIT, $0-16
	MOV	$·valueInRegisters(SB), X5
	MOV	X5, value+0(FP)
	MOV	$·currentInRegisters(SB), X5
	MOV	X5, current+8(FP)
	RET

// func slotFunctions() (value, current uintptr)
TEXT ·slotFunctions(SB), NOSPLIT, $0-16
	MOV	$·valueInSlotMode(SB), X5
	MOV	X5, value+0(FP)
	MOV	$·currentInSlotMode(SB), X5
	MOV	X5, current+8(FP)
	RET
