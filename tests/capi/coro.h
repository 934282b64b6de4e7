/* A small coroutine library of the shape that many have, minicoro and libtask among them. A wrapper
 * calls the coroutine's function through a pointer, and switches away for ever when the function has
 * returned. So the function does return into the wrapper, which is therefore an exit trampoline. The
 * library does not use exeunt. */
#ifndef CORO_H
#define CORO_H

#include <stdbool.h>
#include <stddef.h>

typedef struct coro coro;

/* A suspended coroutine that will call `function(arg)`, on a new stack of `size` bytes. */
coro *coro_new(void (*function)(void *), void *arg, size_t size);
/* Runs it until it yields or ends. Any thread may do so. */
void coro_resume(coro *co);
/* Suspends the running coroutine, which is `co`. */
void coro_yield(coro *co);
bool coro_done(const coro *co);
/* Its stack. */
void *coro_low(const coro *co);
void *coro_high(const coro *co);
/* Frees it with its stack, even when it is suspended half-way. */
void coro_free(coro *co);

/* The start and the end of the wrapper's code. */
const void *coro_wrapper_start(void);
const void *coro_wrapper_end(void);

#endif
