#include "coro.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

struct coro {
    void *own_sp;    /* while it is suspended */
    void *caller_sp; /* while it runs */
    void (*function)(void *);
    void *arg;
    char *low;
    size_t size;
    bool done;
};

/* Saves the callee-saved registers and the stack pointer, and continues where `load` was saved. */
void coro_switch(void **save, void *load);
/* A new coroutine begins here: calls the wrapper with the register in which coro_new has left the
 * coroutine. */
void coro_begin(void);

#if defined(__x86_64__)
__asm__(".text\n"
        ".globl coro_switch\n.hidden coro_switch\n.type coro_switch, @function\n"
        "coro_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size coro_switch, . - coro_switch\n"
        ".globl coro_begin\n.hidden coro_begin\n.type coro_begin, @function\n"
        "coro_begin:\n"
        "  movq %r12, %rdi\n"
        "  call coro_main\n"
        "  ud2\n"
        ".size coro_begin, . - coro_begin\n");
enum { SAVED_WORDS = 7, CORO_WORD = 3, START_WORD = 6 };
#elif defined(__aarch64__)
__asm__(".text\n"
        ".globl coro_switch\n.hidden coro_switch\n.type coro_switch, %function\n"
        "coro_switch:\n"
        "  sub sp, sp, #160\n"
        "  stp x19, x20, [sp]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n  stp x25, x26, [sp, #48]\n"
        "  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
        "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n  stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n"
        "  mov x9, sp\n  str x9, [x0]\n"
        "  mov sp, x1\n"
        "  ldp x19, x20, [sp]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n  ldp x25, x26, [sp, #48]\n"
        "  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
        "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n  ldp d12, d13, [sp, #128]\n  ldp d14, d15, [sp, #144]\n"
        "  add sp, sp, #160\n"
        "  ret\n"
        ".size coro_switch, . - coro_switch\n"
        ".globl coro_begin\n.hidden coro_begin\n.type coro_begin, %function\n"
        "coro_begin:\n"
        "  mov x0, x19\n"
        "  bl coro_main\n"
        "  brk #1\n"
        ".size coro_begin, . - coro_begin\n");
enum { SAVED_WORDS = 20, CORO_WORD = 0, START_WORD = 11 };
#else
#error "coro.c has a switch for x86_64 and aarch64"
#endif

/* The wrapper, in a section of its own, so that the linker defines its start and its end. */
__attribute__((section("coro_wrapper"), used, noinline)) void coro_main(coro *co) {
    co->function(co->arg);
    co->done = true;
    coro_switch(&co->own_sp, co->caller_sp);
    abort();
}

extern const char __start_coro_wrapper[], __stop_coro_wrapper[];
const void *coro_wrapper_start(void) { return __start_coro_wrapper; }
const void *coro_wrapper_end(void) { return __stop_coro_wrapper; }

coro *coro_new(void (*function)(void *), void *arg, size_t size) {
    coro *co = calloc(1, sizeof *co);
    if (co == NULL)
        return NULL;
    co->low = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (co->low == MAP_FAILED) {
        free(co);
        return NULL;
    }
    co->size = size;
    co->function = function;
    co->arg = arg;
    /* Once the saved words are popped, the stack pointer is a multiple of 16. */
    uintptr_t *words = (uintptr_t *)(co->low + size - 16) - SAVED_WORDS;
    words[CORO_WORD] = (uintptr_t)co;
    words[START_WORD] = (uintptr_t)coro_begin;
    co->own_sp = words;
    return co;
}

void coro_resume(coro *co) { coro_switch(&co->caller_sp, co->own_sp); }
void coro_yield(coro *co) { coro_switch(&co->own_sp, co->caller_sp); }
bool coro_done(const coro *co) { return co->done; }
void *coro_low(const coro *co) { return co->low; }
void *coro_high(const coro *co) { return co->low + co->size; }

void coro_free(coro *co) {
    munmap(co->low, co->size);
    free(co);
}
