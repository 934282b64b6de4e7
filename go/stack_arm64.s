//go:build linux

#include "textflag.h"

// func current() *record
TEXT ·current(SB), NOSPLIT, $0-8
	MOVD	8(g), R1           // g.stack.hi
	LDP	-16(R1), (R2, R0)  // check word, index
	MOVD	·secret(SB), R3
	EOR	g, R3, R3
	EOR	R0, R3, R3
	CMP	R2, R3
	BNE	none
	LSR	$8, R0, R3         // chunkRecords
	CMP	$8192, R3          // maxChunks
	BHS	none
	MOVD	$·chunks(SB), R1
	MOVD	(R1)(R3<<3), R1
	CBZ	R1, none
	AND	$255, R0, R0
	ADD	R0<<8, R1, R0      // recordSize
	MOVD	(R0), R2           // record.owner
	CMP	R2, g
	BNE	none
	MOVD	R0, ret+0(FP)
	RET
none:
	MOVD	ZR, ret+0(FP)
	RET

// func mark(index uint64)
TEXT ·mark(SB), NOSPLIT, $0-8
	MOVD	index+0(FP), R0
	MOVD	8(g), R1
	MOVD	·secret(SB), R3
	EOR	g, R3, R3
	EOR	R0, R3, R3
	STP	(R3, R0), -16(R1)
	RET

// func unmark()
TEXT ·unmark(SB), NOSPLIT, $0-0
	MOVD	8(g), R1
	STP	(ZR, ZR), -16(R1)
	RET

// func getg() uintptr
TEXT ·getg(SB), NOSPLIT, $0-8
	MOVD	g, ret+0(FP)
	RET
