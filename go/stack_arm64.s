//go:build linux

#include "go_asm.h"
#include "textflag.h"

// RECORD leaves the running goroutine's record in R1, or branches to none. It keeps R0.
#define RECORD(none)						\
	MOVD	8(g), R2           /* g.stack.hi */		\
	LDP	-16(R2), (R3, R1)  /* check word, index */	\
	MOVD	·common+commonState_secret(SB), R4		\
	EOR	g, R4, R4          /* secret ^ g */		\
	EOR	R1, R4, R4         /* ^ index */		\
	CMP	R3, R4             /* the check word? */	\
	BNE	none               /* rubbish, or no record */	\
	LSR	$8, R1, R4         /* / chunkRecords: the chunk */ \
	MOVD	$·chunks(SB), R2				\
	MOVD	(R2)(R4<<3), R2    /* chunks[index / chunkRecords] */ \
	CBZ	R2, none           /* given back: a stale index */ \
	AND	$255, R1, R1       /* % chunkRecords: the place */ \
	ADD	R1<<8, R2, R1      /* * recordSize: the record */ \
	MOVD	record_owner(R1), R3				\
	CMP	R3, g              /* is it g's? */		\
	BNE	none               /* a stale index */

// func(l *localBase) unsafe.Pointer, with l and the result in R0
TEXT ·valueInRegisters(SB), NOSPLIT|NOFRAME, $0-0
	RECORD(none)
	MOVD	localBase_offset(R0), R2
	CMP	$256, R2           // recordSize
	BHS	slow               // not one of the first locals
	MOVBU	localBase_indirect(R0), R3
	ADD	R2, R1, R1         // where the value, or its address, is in the record
	CBNZ	R3, indirect
	MOVD	R1, R0             // if none is set, it is zero there
	RET
indirect:
	MOVD	(R1), R1           // the value's address
	CBZ	R1, zero           // none was set
	MOVD	R1, R0
	RET
none:
	MOVWU	·common+commonState_mapped(SB), R2
	CBNZ	R2, slow           // some records are in the map: this goroutine's may be
zero:
	MOVD	localBase_zero(R0), R0
	RET
slow:
	MOVD	·common+commonState_slow(SB), R26 // a function value, in the register that holds it during a call
	MOVD	(R26), R1                         // its code
	JMP	(R1)                              // with l still in R0; it returns to our caller

// func() *record, with the result in R0
TEXT ·currentInRegisters(SB), NOSPLIT|NOFRAME, $0-0
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

// func mark(index uint64)
TEXT ·mark(SB), NOSPLIT, $0-8
	MOVD	index+0(FP), R0
	MOVD	8(g), R1           // g.stack.hi: the stack cannot move here
	MOVD	·common+commonState_secret(SB), R3
	EOR	g, R3, R3
	EOR	R0, R3, R3         // g ^ secret ^ index
	STP	(R3, R0), -16(R1)  // the check word, the index
	RET

// func unmark()
TEXT ·unmark(SB), NOSPLIT, $0-0
	MOVD	8(g), R1           // g.stack.hi
	STP	(ZR, ZR), -16(R1)  // a check word that is right only for g = secret, which is odd
	RET

// func getg() uintptr
TEXT ·getg(SB), NOSPLIT, $0-8
	MOVD	g, ret+0(FP)
	RET
