//go:build !(amd64 || arm64 || riscv64)

#include "textflag.h"

// MOVE moves one word. The name g stands for the register that has the descriptor's address, or for wasm's
// variable that has it; on 386 the thread's storage has it.
#ifdef GOARCH_386
#define SIZE 4
#define MOVE MOVL (TLS), AX; MOVL
#define DESCRIPTOR AX
#endif
#ifdef GOARCH_arm
#define SIZE 4
#define MOVE MOVW
#endif
#ifdef GOARCH_mips
#define SIZE 4
#define MOVE MOVW
#endif
#ifdef GOARCH_mipsle
#define SIZE 4
#define MOVE MOVW
#endif
#ifdef GOARCH_mips64
#define MOVE MOVV
#endif
#ifdef GOARCH_mips64le
#define MOVE MOVV
#endif
#ifdef GOARCH_loong64
#define MOVE MOVV
#endif
#ifndef MOVE
#define MOVE MOVD
#endif
#ifndef SIZE
#define SIZE 8
#endif
#ifndef DESCRIPTOR
#define DESCRIPTOR g
#endif

// func getg() uintptr
TEXT ·getg(SB), NOSPLIT, $0-SIZE
	MOVE	DESCRIPTOR, ret+0(FP)
	RET
