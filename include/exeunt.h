// exeunt.h: values and exit handlers for the running stack.
//
// The running stack is the one that you make a call on: a thread's, the main thread's, or a fiber's
// (a coroutine's). Your code gives it values, which are destroyed when it ends, and handlers, which
// are called when it ends. The code that started the stack takes no part in this. Think of a
// library that opens a connection for each thread that happens to call it, and closes it when that
// thread ends.
//
// Example:
//
//     #include <exeunt.h>
//     #include <pthread.h>
//     #include <stdio.h>
//     #include <stdlib.h>
//
//     static char key; // only its address counts
//
//     static void report(void *name) {
//         printf("%s ends with %d\n", (char *)name, *(int *)exeunt_get(&key));
//     }
//
//     static void *work(void *name) {
//         int *number = malloc(sizeof *number);
//         if (number == NULL)
//             return NULL;
//         *number = 42;
//         int code = exeunt_set(&key, number, free); // the stack owns it now
//         if (code != EXEUNT_OK) {
//             free(number); // after an error nothing has changed
//             fprintf(stderr, "no storage here: %s\n", exeunt_strerror(code));
//             return NULL;
//         }
//         return exeunt_at_exit(report, name) == EXEUNT_OK ? name : NULL;
//     }
//
//     int main(void) {
//         pthread_t thread;
//         if (pthread_create(&thread, NULL, work, "a thread") != 0)
//             return 1;
//         pthread_join(thread, NULL); // "a thread ends with 42", and free(number)
//         work("main");
//         return 0; // "main ends with 42", and free(number)
//     }
//
// Build it with:  cc example.c $(pkg-config --cflags --libs exeunt) -pthread
//
// Contents of this file:
//
//     Version              exeunt_version, EXEUNT_VERSION
//     Functions of yours   exeunt_fn, exeunt_entry
//     Handlers             exeunt_at_exit, exeunt_at_exit_owned, exeunt_at_exit_stoppable,
//                          exeunt_stop, exeunt_unload, exeunt_id
//     Ends                 exeunt_ending, exeunt_returned_value, exeunt_stacks
//     For tools            exeunt_on_every_end, exeunt_on_every_thread_end, exeunt_stop_every_end,
//                          exeunt_restore_code_sites
//     Values               exeunt_set, exeunt_get, exeunt_del, exeunt_reset
//     Slots                exeunt_slot_alloc, exeunt_slot_set, exeunt_slot_get, exeunt_slot_free
//     Fibers               exeunt_enter, exeunt_enter_on, exeunt_register_trampoline,
//                          exeunt_discard
//     Fibers: scopes       exeunt_scope_begin, exeunt_scope_end
//     Errors               EXEUNT_OK and the other codes, exeunt_strerror, exeunt_last_code,
//                          exeunt_last_error
//     Patching code        exeunt_redirect_call, exeunt_undo_redirect_call
//
// When a stack ends. It ends when its function returns: `main`, a thread's start routine, or a
// fiber's function. It also ends by `pthread_exit`, by cancellation, and main's stack by `exit` on
// the main thread. Then it is drained: its handlers are called, last in first out, and after them
// its values are destroyed, last set first. If the process ends in another way, nothing is called.
//
// Arming. The first call that stores something, or asks for the stack's identity, arms the stack:
// from then on the stack's end leads through exeunt. The stack word that holds its function's
// return address is the foot, and the system's code that the function returns into is its exit
// trampoline. A stack whose exit trampoline exeunt does not know cannot be armed.
//
// Errors. A function that returns `int` returns `EXEUNT_OK`, which is 0, or a negative code. After
// an error nothing has changed, and what you passed is still yours. `exeunt_strerror` gives a
// sentence for a code, and `exeunt_last_error` gives all details of the last failure.
//
// Threads. You may call every function on any thread. Calls about the running stack need no lock,
// because no other thread runs that stack. A function is safe in a signal handler only where its
// description says so.
//
// "Requires:" names what exeunt cannot check. If it is not so, the behaviour is undefined.
//
// C++17 has the same in exeunt.hpp. The guide is book/c.md in exeunt's sources.
//
// This file is made from src/ffi and tests/header/template.h, by
// `cargo run --package exeunt-header -- --write`.

#ifndef EXEUNT_H
#define EXEUNT_H

#include <stddef.h>
#include <stdint.h>

// The compiler warns where the result of such a function is not used.
#ifndef EXEUNT_CHECK_RESULT
#if (defined(__cplusplus) && __cplusplus >= 201703L) || (defined(__STDC_VERSION__) && __STDC_VERSION__ >= 202311L)
#define EXEUNT_CHECK_RESULT [[nodiscard]]
#elif defined(__GNUC__)
#define EXEUNT_CHECK_RESULT __attribute__((warn_unused_result))
#else
#define EXEUNT_CHECK_RESULT
#endif
#endif

// =================================================================================================
// Version
// =================================================================================================

// The version of this header. `exeunt_version` gives that of the library that runs.
#define EXEUNT_VERSION_MAJOR 0
#define EXEUNT_VERSION_MINOR 1
#define EXEUNT_VERSION_PATCH 0

// The same as a string.
#define EXEUNT_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

// The version of the library that runs, such as "0.1.0". If it differs from `EXEUNT_VERSION`, then
// the program was compiled with the header of another version. The string is static: never null,
// and never to be freed.
//
// Thread-safe and async-signal-safe.
const char *exeunt_version(void);

// =================================================================================================
// Functions of yours, which exeunt calls
// =================================================================================================

// A handler or a destructor. A handler gets the `arg` that it was registered with, and a
// destructor gets the value.
//
// It must return. An exception that leaves it ends the process, and so does `pthread_exit` in it.
typedef void (*exeunt_fn)(void *arg);

// A fiber's function, for `exeunt_enter`. It gets the `arg` of that call. A C++ exception or
// forced unwinding may leave it.
typedef void *(*exeunt_entry)(void *arg);

// =================================================================================================
// Handlers, and the identity of a stack
// =================================================================================================

// Registers a handler, which is called with `arg` when the running stack ends. Arms the stack if
// it is not armed.
//
// Handlers run last in, first out, on that very stack, before its thread's pthread keys and C++
// `thread_local` destructors, with all values still there. A handler may use storage and register
// more handlers.
//
// Returns 0; `EXEUNT_EINVALID` for a null `handler`; or the code for why the stack cannot be
// armed. After an error nothing has changed.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// Requires: `handler` must be good to call with `arg` when the stack ends, on the thread that runs
// the stack then. Its code must stay loaded until then (link a plugin that may be unloaded with
// `-Wl,-z,nodelete`).
EXEUNT_CHECK_RESULT int exeunt_at_exit(exeunt_fn handler, void *arg);

// As `exeunt_at_exit`, for a handler that owns its `arg`. If `exeunt_unload` drops the handler,
// `forget` is called with `arg` instead, to free it. After an error neither is called, and `arg`
// is still yours.
//
// Returns and thread safety: as `exeunt_at_exit`.
//
// Requires: as `exeunt_at_exit`, for both functions.
EXEUNT_CHECK_RESULT int exeunt_at_exit_owned(exeunt_fn handler, exeunt_fn forget, void *arg);

// As `exeunt_at_exit_owned`, and stores in `*registration` a number by which `exeunt_stop` takes
// the handler back. It is never 0, and no other registration in the life of the process has it.
// After an error `*registration` is 0.
//
// It is for code that runs many times on a stack that goes on, as one request after the other on a
// connection's thread.
//
// Returns and thread safety: as `exeunt_at_exit`; also `EXEUNT_EINVALID` for a null
// `registration`.
//
// Requires: as `exeunt_at_exit`, for both functions. `registration` must be null or good to write
// to.
EXEUNT_CHECK_RESULT
int exeunt_at_exit_stoppable(exeunt_fn handler,
                             exeunt_fn forget,
                             void *arg,
                             uint64_t *registration);

// Takes back a handler of the running stack, which `exeunt_at_exit_stoppable` has registered: it
// is not called any more. Its `forget` is called here with its `arg`.
//
// A handler may stop another one that has not begun.
//
// Returns 0; or `EXEUNT_EABSENT` if this stack has no such handler: it is running or has run, was
// stopped before, or `exeunt_unload` has dropped it; or it belongs to another stack, and then it
// will still be called. So it is where no walk leads from here to the stack's end (below code
// without unwind tables). Free what the handler uses only after 0.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
int exeunt_stop(uint64_t registration);

// Destroys all values of the running stack, drops its handlers without calling them, and puts its
// exit back. Then the stack is as it was before it was armed.
//
// Returns 0, also if the stack is not armed; or `EXEUNT_EBUSY` if the call comes from a Rust
// key's comparison.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
int exeunt_unload(void);

// The identity of the running stack, unique in the life of the process. Arms the stack if it is
// not armed. The identity stays the same until the stack ends or is unloaded, whichever thread
// runs it. 0 if the stack cannot be armed: `exeunt_last_code` and `exeunt_last_error` say why.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
uint64_t exeunt_id(void);

// =================================================================================================
// How a stack ends, and which stacks are armed
// =================================================================================================

// The code that calls belongs to no end of a stack.
#define EXEUNT_ENDING_NONE 0

// One of those below, and exeunt cannot find out which: it cannot start a thread for the one
// experiment that it needs.
#define EXEUNT_ENDING_UNKNOWN 1

// The stack's function has returned.
#define EXEUNT_ENDING_RETURNED 2

// Unwinding has left the function that `exeunt_enter` runs: an exception, or forced unwinding.
#define EXEUNT_ENDING_UNWOUND 3

// The thread ends by `pthread_exit`.
#define EXEUNT_ENDING_EXITED 4

// The thread was cancelled. `pthread_exit(PTHREAD_CANCELED)` counts as this, as it does for
// `pthread_join`.
#define EXEUNT_ENDING_CANCELLED 5

// The thread calls `exit`.
#define EXEUNT_ENDING_PROCESS_EXIT 6

// The fiber was suspended for ever, and another stack on its memory has just been armed.
#define EXEUNT_ENDING_ABANDONED 7

// `exeunt_discard` ends the fiber.
#define EXEUNT_ENDING_DISCARDED 8

// `exeunt_scope_end` ends the scope.
#define EXEUNT_ENDING_SCOPE 9

// A stack of a thread.
#define EXEUNT_KIND_THREAD 1

// The stack that `main` runs on.
#define EXEUNT_KIND_MAIN 2

// A `makecontext` fiber.
#define EXEUNT_KIND_FIBER 3

// A fiber in `exeunt_enter`, or a scope.
#define EXEUNT_KIND_ENTERED 4

// A fiber whose runtime's code was registered.
#define EXEUNT_KIND_REGISTERED 5

// An armed stack, as `exeunt_stacks` describes it.
typedef struct exeunt_stack {
  // Its identity: see `exeunt_id`.
  uint64_t id;
  // The address of its foot.
  const void *foot;
  // The highest address that belongs to it.
  const void *base;
  // The return address of the call into exeunt that has armed it; null if that is not known.
  // Give the address less one to tools that name code.
  const void *armed_from;
  // One of the `EXEUNT_KIND_` numbers.
  int kind;
  // 1 if the stack has ended and its handlers are running, otherwise 0.
  int draining;
} exeunt_stack;

// How the running stack ends, for its handlers and its values' destructors: one of the
// `EXEUNT_ENDING_` numbers above. Later versions may have more of them. In a handler of a stack
// that was abandoned or discarded it is the ending of that stack, although the handler runs on
// another one.
//
// The first call on a thread that may have ended by `pthread_exit` or by cancellation starts a
// thread, once in a process. It learns where libc keeps how a thread ends.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
int exeunt_ending(void);

// Stores in `*value` what the stack ends with, where `exeunt_ending` is `EXEUNT_ENDING_RETURNED`
// or `EXEUNT_ENDING_EXITED`: what its function has returned, or what `pthread_exit` was given. It
// is what `pthread_join` gives; of `main` and C11's threads it is the `int`. It means nothing if
// the function returns anything else.
//
// Returns 0; `EXEUNT_EABSENT` with other endings, and where there is no such value: the functions
// of `makecontext` fibers and of `exeunt_enter` return none to exeunt; or `EXEUNT_EINVALID` for a
// null `value`.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// Requires: `value` must be null or good to write to.
int exeunt_returned_value(void **value);

// Lists the armed stacks of the process, in no order: for leak detectors. Stores up to `room` of
// them in `stacks`, and returns how many there are, which may be more.
//
// It is a snapshot, taken stack by stack: each may have ended by the time you read about it. A
// fiber that was suspended for ever is listed until it is discarded, or until another stack on its
// memory is armed. This takes no lock and allocates nothing.
//
// Thread-safe. Not for signal handlers.
//
// Requires: `stacks` must be good for `room` elements; it may be null if `room` is 0.
size_t exeunt_stacks(struct exeunt_stack *stacks, size_t room);

// =================================================================================================
// The ends of all threads and of main: for tools that watch a whole program
// =================================================================================================

// The end of a stack, as `exeunt_on_every_end` and `exeunt_on_every_thread_end` describe it.
typedef struct exeunt_stack_end {
  // `EXEUNT_KIND_THREAD` or `EXEUNT_KIND_MAIN`.
  int kind;
  // `EXEUNT_ENDING_RETURNED`, `EXEUNT_ENDING_EXITED`, `EXEUNT_ENDING_CANCELLED`, or
  // `EXEUNT_ENDING_UNKNOWN`.
  int ending;
  // What the stack's function has returned, or what `pthread_exit` was given; null with other
  // endings. Of `main` and C11's threads it is the `int`.
  void *value;
  // 1 if the stack is armed: then its handlers run next. Otherwise 0, also where slot redirect
  // has armed it: then they have run.
  int armed;
} exeunt_stack_end;

// A function for `exeunt_on_every_end` and `exeunt_on_every_thread_end`. `end` is good until it
// returns. `arg` is what that call was given.
typedef void (*exeunt_end_fn)(const struct exeunt_stack_end *end, void *arg);

// Has `function` called with `arg` at the end of every thread (of `pthread_create` and of C11) and
// of `main`, whether their stacks are armed or not, and whether they are there already or begin
// later. It is for tools that watch a whole program.
//
// This needs code redirect, and chooses it for the process if nothing is chosen yet. It patches
// libc's code for all these kinds at once, on any thread.
//
// `function` runs on the stack that ends, when the frames of the stack's function are gone, before
// the thread's pthread keys and C++ `thread_local` destructors, and before the stack's own handlers.
// It is called by returns, `pthread_exit` and cancellation. It is not called by `exit`, `_exit` or a
// fatal signal, which end the process, nor for fibers. Before glibc 2.34 it is not called where
// `main` ends by `pthread_exit`.
//
// exeunt allocates nothing for the call and takes no lock. `function` may run on several threads at
// once, and is no signal handler. It must return: it must not end the thread, nor throw.
// Cancellation is deferred meanwhile. It must not arm the stack nor use storage, nor call
// `exeunt_restore_code_sites`.
//
// Returns 0; `EXEUNT_EINVALID` for a null `function`; `EXEUNT_EREDIRECT` if the process uses slot
// redirect; `EXEUNT_EBUSY` if another function is registered; `EXEUNT_ENO_CODE_SITE` where not all
// of libc's code can be found and patched, and with musl and on macOS; or a code of
// `exeunt_at_exit`. After an error no code has changed.
//
// Thread-safe. Not for signal handlers.
//
// Requires: `function` must be good to call with `arg` on any thread at any time, and its code must
// stay loaded, also after it was taken back: a thread may be running it.
EXEUNT_CHECK_RESULT int exeunt_on_every_end(exeunt_end_fn function, void *arg);

// Has `function` called with `arg` at the end of every thread, as `exeunt_on_every_end` does, and
// leaves `main` alone: libc's code that it returns into is not patched.
//
// This chooses no redirect: the process may use slot redirect, or choose either one later. A stack
// that slot redirect has armed has run its handlers before `function` is called. All else that
// `exeunt_on_every_end` says of threads and of `function` holds here as well. One function can be
// registered in a process, by this or by that call.
//
// Returns what `exeunt_on_every_end` does, but for `EXEUNT_EREDIRECT`. After an error no code has
// changed.
//
// Thread-safe. Not for signal handlers.
//
// Requires: as `exeunt_on_every_end`.
EXEUNT_CHECK_RESULT int exeunt_on_every_thread_end(exeunt_end_fn function, void *arg);

// Takes back the function of `exeunt_on_every_end` or `exeunt_on_every_thread_end`: no call of it
// begins from now on. Calls that have begun on other threads go on. `exeunt_restore_code_sites`
// then puts libc's code back.
//
// Returns 0; or `EXEUNT_EABSENT` if there is none.
//
// Thread-safe. Not for signal handlers.
int exeunt_stop_every_end(void);

// =================================================================================================
// Values: a pointer under a key, for each stack
//
// The key is the address of a variable of yours. A value that you get is a pointer that you have
// set, so you decide what it points to and who frees it.
// =================================================================================================

// Stores `value` under `key` on the running stack, and arms the stack if it is not armed.
//
// The key is the address alone. Use the address of a static variable that is not `const`: the
// compiler may merge `const` ones. Keys are compared as `==` compares pointers, so a tag in the
// upper byte (aarch64: MTE, HWASan) is a part of them.
//
// `destructor` is called with the value when the stack ends, after its handlers, or when the value
// is replaced, deleted or reset, unless `value` or `destructor` is null. At the end, values are
// destroyed last set first. A destructor may use storage, also under the same key.
//
// Returns 0, or the code for why the stack cannot be armed. Then nothing has changed: the old
// value is still there. The new one is still yours, and its destructor is not called.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// Requires: `destructor` must be good to call with `value`, on the thread that runs the stack then.
// Its code must stay loaded.
EXEUNT_CHECK_RESULT int exeunt_set(const void *key, void *value, exeunt_fn destructor);

// Returns the value under `key` on the running stack; null if there is none. Never arms the stack.
//
// Thread-safe: it concerns the running stack alone. Async-signal-safe: it returns null if the
// signal came in the middle of a change of this stack's values, and on an alternate signal stack.
void *exeunt_get(const void *key);

// Deletes the value under `key` on the running stack, and calls its destructor.
//
// Returns 0; `EXEUNT_EABSENT` if there is none; or `EXEUNT_EBUSY` if the call comes from a Rust
// key's comparison.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
int exeunt_del(const void *key);

// Destroys all values of the running stack, last set first, clears its slots, and keeps its
// handlers. This concerns the values of every language that shares this library.
//
// Returns 0, also if the stack is not armed; or `EXEUNT_EBUSY` if the call comes from a Rust
// key's comparison.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
int exeunt_reset(void);

// =================================================================================================
// Slots: the same under a number, which you allocate and free at run time
//
// There are 2,048 slots. A slot reads a little faster than a value under a key, and freeing it
// clears it on all stacks.
// =================================================================================================

// Allocates a slot, and stores its number in `*slot`. The number is never 0. Every stack has a
// pointer of its own in the slot, null at first. `destructor`, which may be null, is called with
// each pointer that is not null: when its stack ends, and when the slot is freed.
//
// Returns 0; `EXEUNT_ESLOTS_EXHAUSTED` if 2,048 are allocated; `EXEUNT_EINVALID` for a null
// `slot`. After an error `*slot` is as it was.
//
// Thread-safe. Not for signal handlers.
//
// Requires: `slot` must be good to write to, and `destructor` good to call with all values that
// will be set, on any thread. Its code must stay loaded.
EXEUNT_CHECK_RESULT int exeunt_slot_alloc(uint32_t *slot, exeunt_fn destructor);

// Sets the slot's pointer on the running stack, and arms the stack if it is not armed. The old
// pointer is overwritten, and the destructor is not called with it: get it first, and free it.
//
// Returns 0, `EXEUNT_ENO_SUCH_SLOT`, or the code for why the stack cannot be armed.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// Requires: `value` must be what the slot's destructor, and the code that reads it on this stack,
// take it for.
EXEUNT_CHECK_RESULT int exeunt_slot_set(uint32_t slot, void *value);

// Stores the slot's pointer on the running stack in `*value`: null if none was set, and on an
// alternate signal stack. Never arms the stack.
//
// Returns 0; `EXEUNT_ENO_SUCH_SLOT`, then `*value` is null; or `EXEUNT_EINVALID` for a null
// `value`.
//
// Thread-safe: it concerns the running stack alone. Async-signal-safe as long as it returns 0.
//
// Requires: `value` must be null or good to write to.
int exeunt_slot_get(uint32_t slot, void **value);

// Frees the slot. Its number is invalid from then on, and no stack has a pointer in it any more.
// The destructor is called with each pointer that is not null, here and now.
//
// Returns 0, or `EXEUNT_ENO_SUCH_SLOT`, also if it was freed before.
//
// Thread-safe, if no stack uses this slot meanwhile. Not for signal handlers.
//
// Requires: no stack may use the slot or what it points to meanwhile.
int exeunt_slot_free(uint32_t slot);

// =================================================================================================
// Fibers
//
// Threads, the main thread, and `makecontext` fibers whose function returns need nothing of this.
// If the function of a `makecontext` fiber never returns (GNU Pth, QEMU), the stack can be armed,
// but its handlers do not run: use `exeunt_enter` there. The function of any other fiber may never
// return to code of the system. Then the first use on it fails with `EXEUNT_EUNKNOWN_TRAMPOLINE`.
// Run such a function in `exeunt_enter`, or register the code that calls it, or put a scope into
// it.
// =================================================================================================

// Calls `entry(arg)` as the running stack's entry function, on any stack at all. Stores what it
// returns in `*result`, unless `result` is null.
//
// For the function of a fiber that never returns to code of the system: Boost.Context,
// Boost.Fiber, or a switch of your own. When `entry` returns, its handlers run and its values are
// destroyed before `exeunt_enter` returns. A C++ exception or forced unwinding that leaves `entry`
// passes through, and drains the stack on the way.
//
// A fiber that stores nothing pays for the call alone: the first use of storage in `entry` arms
// the stack.
//
// Do not leave `entry` by `longjmp`: then nothing is drained. Nothing of this stack is drained
// either if the process ends while `entry` runs, by `exit` for example, on any thread.
//
// Returns 0; `EXEUNT_EALREADY_ARMED` if the stack is armed already; `EXEUNT_EINVALID` for a null
// `entry`; or the code for why the trampoline cannot be set up. After an error `entry` has not
// been called.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// Requires: `entry` must be good to call with `arg`, and `result` be null or good to write to.
EXEUNT_CHECK_RESULT int exeunt_enter(exeunt_entry entry, void *arg, void **result);

// As `exeunt_enter`, on a stack whose memory you know: `low` is its lowest address, and `high` the
// address behind its last byte. This function does not search for an armed stack, so it costs
// little more than the call.
//
// Returns as `exeunt_enter`, or `EXEUNT_ENOT_ON_THAT_STACK`. After an error `entry` has not been
// called.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// Requires: as `exeunt_enter`. The memory must be that of the running stack, and no outer function
// on it may have armed it.
EXEUNT_CHECK_RESULT
int exeunt_enter_on(const void *low,
                    const void *high,
                    exeunt_entry entry,
                    void *arg,
                    void **result);

// Declares that stacks will never run again, although their functions have not returned: those in
// the memory from the address `low` up to, and without, the address `high`. Call it before you
// free the memory of a suspended fiber, or give it to another one.
//
// Each armed one is drained here and now, on the calling stack: storage that its handlers use is
// the caller's.
//
// Returns 0, also if no armed stack was found; `EXEUNT_EINVALID` if `low` is above `high`.
//
// Thread-safe, if no code resumes those stacks meanwhile. Not for signal handlers.
//
// Requires: the stacks must be suspended for ever: you must neither resume nor unwind them. The
// running stack must not be among them.
int exeunt_discard(const void *low, const void *high);

// Registers a fiber library's wrapper as an exit trampoline: a function that calls the fiber's
// function and, when that has returned, ends the fiber by switching away. `start` is the address
// of its first byte of code, and `end` the address behind its last. Then fibers of that library
// can use everything without `exeunt_enter`, and the library stays as it is. minicoro's
// `_mco_main` is such a wrapper.
//
// Diagnosis shows `name` for it. The name is copied.
//
// The wrapper gets all of the function's result, except the parts of vectors beyond 128 bits (AVX,
// SVE, and SVE's predicates), which handlers may change.
//
// Returns 0, also if this code is registered already; `EXEUNT_EINVALID` for a null name or an
// empty range; `EXEUNT_EPOOL_FULL` if 32 are registered.
//
// Thread-safe. Not for signal handlers.
//
// Requires: `name` must be a string. Only entry functions may return into the code. The code must
// stay loaded, and the compiler must not have turned the call into a jump.
EXEUNT_CHECK_RESULT int exeunt_register_trampoline(const char *name, const void *start, const void *end);

// =================================================================================================
// Fibers: scopes, where you can neither wrap the fiber's function nor register what calls it
// =================================================================================================

// A scope. Make it an automatic variable of the function whose stack it serves. Its contents are
// private.
typedef struct exeunt_scope {
  uint64_t opaque[16];
} exeunt_scope;

// Starts a scope: until its end, the running stack has storage and handlers, whatever made the
// stack. Use it for the function of a fiber whose library never returns from it, if `exeunt_enter`
// cannot run that function. `exeunt_enter` is cheaper and has no rules about frames.
//
// The scope must be an automatic variable of the fiber's function. After this call that function
// must not use `alloca` or arrays of variable length, nor pass more than 1 KiB of arguments by
// value.
//
// Returns 0; `EXEUNT_EALREADY_ARMED` if the stack is armed already; `EXEUNT_EINVALID` if `scope`
// is not in a frame of the running stack (a variable of a C++20 coroutine is not);
// `EXEUNT_ESHARED_PAGE` on a stack so small that it shares a page with another live one. After an
// error there is no scope, and nothing to end.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// Requires: `scope` must be good to write to. It must stay where it is until `exeunt_scope_end`
// ends it on the same stack, or until the stack is discarded.
EXEUNT_CHECK_RESULT int exeunt_scope_begin(struct exeunt_scope *scope);

// Ends a scope: calls the stack's handlers, last in first out, and destroys its values, last set
// first, here and now.
//
// Returns 0, also if `exeunt_unload` has ended it already; `EXEUNT_ENOT_ON_THAT_STACK` on another
// stack than its own; `EXEUNT_EINVALID` for null.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// Requires: `exeunt_scope_begin` must have started `scope`, and this function must not have ended
// it before.
int exeunt_scope_end(struct exeunt_scope *scope);

// =================================================================================================
// Errors
// =================================================================================================

// Success.
#define EXEUNT_OK 0

// This stack's exit trampoline is unknown: its function is a fiber's, say, and never
// returns to code of the system. `exeunt_last_error` says what was found.
#define EXEUNT_EUNKNOWN_TRAMPOLINE -1

// The code runs on a signal stack, which belongs to no thread or fiber.
#define EXEUNT_ESIGNAL_STACK -2

// The processor checks this thread's returns against a shadow stack. `EXEUNT_REDIRECT=code` in the
// environment helps.
#define EXEUNT_ESHADOW_STACK -3

// All of exeunt's trampolines, or all places for registered wrappers, are taken.
#define EXEUNT_EPOOL_FULL -4

// The system refused to change the protection of a page of exeunt's own.
#define EXEUNT_EPROTECTION -5

// Something else rewrites return addresses on this stack, as uftrace does.
#define EXEUNT_EFOREIGN_FOOT -6

// The stack is armed already, so its end is fixed: use storage and handlers directly.
#define EXEUNT_EALREADY_ARMED -7

// The running code is not on the stack that was named.
#define EXEUNT_ENOT_ON_THAT_STACK -8

// All slots are allocated.
#define EXEUNT_ESLOTS_EXHAUSTED -9

// No slot has this number: it was never allocated, or it was freed.
#define EXEUNT_ENO_SUCH_SLOT -10

// There is no memory.
#define EXEUNT_ENO_MEMORY -11

// An outer frame of this very stack is changing the stack's storage, or this thread is recognising
// exit trampolines, or another function is called at every end.
#define EXEUNT_EBUSY -12

// A stack local was used while its own value was being created or dropped (Rust only).
#define EXEUNT_ERECURSIVE_INIT -13

// This stack has no value under this key, or no handler with this registration.
#define EXEUNT_EABSENT -14

// A required argument is null, or a range is empty.
#define EXEUNT_EINVALID -15

// A defect of exeunt: it caught a panic of its own. Please report it.
#define EXEUNT_EPANIC -16

// The scope's page belongs to another live stack as well. Use `exeunt_enter`.
#define EXEUNT_ESHARED_PAGE -17

// The code cannot be patched: that of an exit trampoline under code redirect, or what
// `exeunt_redirect_call` was given. `exeunt_last_error` says what was found.
#define EXEUNT_ENO_CODE_SITE -18

// The process uses another redirect than the one that was chosen, or the environment names an
// unknown one.
#define EXEUNT_EREDIRECT -19

// A call of a system function failed that exeunt needs to recognise exit trampolines, or to patch
// code. The next use tries again. `exeunt_last_error` names the call and its error number.
#define EXEUNT_ECALL_FAILED -20

// This stack's function has ended and its handlers have run. The caller is a destructor of a
// thread-local, of a pthread key or of a static, or an `atexit` function.
#define EXEUNT_EENDED -21

// `main` has not begun. The caller is a constructor, or the initialiser of a static.
#define EXEUNT_ETOO_EARLY -22

// The patched exit trampolines are in use: by armed stacks, or by a function that is called at
// every end.
#define EXEUNT_EIN_USE -23

// The word at the given address is no foot of a stack that can be armed.
#define EXEUNT_ENO_FOOT -24

// The meaning of a code, in one sentence. The string is static: never null, and never to be freed.
//
// Thread-safe and async-signal-safe.
const char *exeunt_strerror(int code);

// The code of the last failure of a call on this thread, for the function that does not return
// one: `exeunt_id`. `EXEUNT_OK` if nothing has failed yet. A call that succeeds does not change
// it, nor does `exeunt_arm_reserved`.
//
// Thread-safe: it concerns the running thread alone. Not for signal handlers.
int exeunt_last_code(void);

// Copies the text of the last failure of a call on this thread into `buffer`. It says more than
// `exeunt_strerror`, such as the frames that were found on a stack that cannot be armed. Call it
// before the fiber may be switched. This call makes the text, and naming a stack's frames takes
// some milliseconds. On a thread so near its end that no thread-local can be used, the text is
// that of `exeunt_strerror`.
//
// It writes at most `size` bytes, the last one being zero. Returns the length of the whole text,
// without the zero, as `snprintf` does; 0 if nothing has failed yet. `buffer` may be null if
// `size` is 0.
//
// Thread-safe: it concerns the running thread alone. Not for signal handlers.
//
// Requires: `buffer` must be good to write `size` bytes to.
size_t exeunt_last_error(char *buffer, size_t size);

// =================================================================================================
// Patching code: for tools. Storage and handlers need nothing of this
// =================================================================================================

// Makes the direct call or branch at `site` lead to `new_target` instead of `expected_target`,
// while other threads may be running there: each of them executes the old instruction or the new
// one. If that is not possible, it is refused. Return addresses stay as they are. Code redirect
// does the same to exit trampolines. This does it to code of your own choice.
//
// Returns 0, `EXEUNT_EINVALID`, `EXEUNT_ENO_CODE_SITE`, `EXEUNT_ECALL_FAILED`, or `EXEUNT_EBUSY`
// inside of another call that patches code (from an allocator). After an error nothing has
// changed, and `exeunt_last_error` says why: what is at `site`, with bytes and disassembly, or
// what the system refused.
//
// Thread-safe. Not for signal handlers.
//
// Requires: `site` must be the first byte of an instruction in code that stays loaded, or no code
// at all. Until you undo it, `new_target` must be good to enter wherever `expected_target` is. No
// other code may change the protection of the page of `site` at the same time.
EXEUNT_CHECK_RESULT int exeunt_redirect_call(void *site, const void *expected_target, const void *new_target);

// Undoes `exeunt_redirect_call` at `site`: every byte is as before.
//
// Returns 0, `EXEUNT_EINVALID`, or `EXEUNT_ENO_CODE_SITE` if nothing is redirected at `site`, or
// if the system refuses now.
//
// Thread-safe. Not for signal handlers.
EXEUNT_CHECK_RESULT int exeunt_undo_redirect_call(void *site);

// =================================================================================================
// The redirect of the process
// =================================================================================================

// Slot redirect: exeunt rewrites one word of each armed stack. The default.
#define EXEUNT_REDIRECT_SLOT 1

// Code redirect: exeunt patches a call in libc, once for each kind of stack.
#define EXEUNT_REDIRECT_CODE 2

// Slot redirect; code redirect where the thread that arms the first stack has a shadow stack.
#define EXEUNT_REDIRECT_AUTO 3

// Chooses the redirect of the whole process, one of the `EXEUNT_REDIRECT_` numbers, before the
// first stack is armed. The environment variable `EXEUNT_REDIRECT` has no effect then.
//
// Returns 0, also if this redirect was chosen before; `EXEUNT_EREDIRECT` if the process has chosen
// another one, or has armed a stack with another one; or `EXEUNT_EINVALID` for another number.
// After an error nothing has changed.
//
// Thread-safe. Not for signal handlers.
EXEUNT_CHECK_RESULT int exeunt_install_redirect(int redirect);

// Puts all code of libc back that code redirect has patched: every byte is as it was. It is for
// tools that leave a program which goes on. The process still uses code redirect: the next stack
// that is armed patches it again. A thread that is in exeunt's hook goes on from there, so exeunt
// stays loaded.
//
// Returns 0, also if nothing was patched; `EXEUNT_EIN_USE` if stacks are armed whose ends need the
// patched code, or if a function is registered by `exeunt_on_every_end` or
// `exeunt_on_every_thread_end`; or `EXEUNT_ENO_CODE_SITE` if the system refuses to write, or other
// code has changed it meanwhile. After an error nothing has changed.
//
// Thread-safe. Not for signal handlers.
EXEUNT_CHECK_RESULT int exeunt_restore_code_sites(void);

// Whether a word of a stack is an address of one of exeunt's trampolines, which the foot of a
// stack holds that slot redirect has armed: 1 or 0. Other copies of exeunt in the process have
// other trampolines. A signature of the word (pointer authentication) is ignored.
//
// Thread-safe and async-signal-safe.
int exeunt_is_own_trampoline(const void *word);

// =================================================================================================
// Arming by the address of a foot: for tools that arm threads which are stopped
// =================================================================================================

// What `exeunt_reserve` reserves for one stack. Its contents are private.
typedef struct exeunt_reservation {
  uint64_t opaque[4];
} exeunt_reservation;

// Reserves what it takes to arm a stack whose foot you know: a record with this handler, and room in
// the stack map. `exeunt_arm_reserved` then arms that stack with a few stores, without code that
// runs on it. It is for tools that arm threads which are stopped, in any code. It serves stacks of
// threads and of `main`, with glibc.
//
// `foot` is the address of the stack's foot: the word that holds the return address of the thread's
// start routine, or of `main`. `base` is the stack pointer once that function has returned; on
// x86_64 it is `foot + 8`. `exeunt_stacks` shows both of an armed stack: a thread's base lies at a
// constant distance below its descriptor (`pthread_self`).
//
// This takes locks, allocates, and at a process's first use it may start a few threads, which end at
// once, and patch code (code redirect). So call it while all threads run. It reads the stack, and
// changes nothing there.
//
// Returns 0; `EXEUNT_EINVALID` for a null `reservation` or `handler`; `EXEUNT_ENO_FOOT` if the word
// at `foot` leads to no known exit trampoline of threads or of `main`; `EXEUNT_EALREADY_ARMED`; or a
// code of `exeunt_at_exit`. After an error no stack has changed, and `reservation` holds nothing. As
// after a success, what concerns the whole process stays: the exit trampolines that were recognised,
// its choice of redirect, the code that was patched, and exeunt's functions for `exit` and `fork`.
//
// Thread-safe. Not for signal handlers.
//
// Requires: if there is memory at `foot` and `base`, it must stay mapped until this returns, with
// 512 bytes above the base. `reservation` must be null or good to write to. `handler` as for
// `exeunt_at_exit`.
EXEUNT_CHECK_RESULT
int exeunt_reserve(struct exeunt_reservation *reservation,
                   const void *foot,
                   const void *base,
                   exeunt_fn handler,
                   void *arg);

// Arms the stack that `exeunt_reserve` has reserved for, whichever thread calls: from now on its end
// calls the handler, as if that stack's own code had called `exeunt_at_exit`. (But where `main` calls
// `exit`, it runs as an `atexit` function.) Stores the stack's identity in `*id`, if `id` is not
// null.
//
// This allocates nothing, frees nothing and takes no lock, so the stack's thread may be stopped
// anywhere, with any lock held.
//
// Returns 0, and then `reservation` holds nothing any more; `EXEUNT_ENO_FOOT` if the word at the
// foot is no known exit any more, or an earlier stack on that memory has not been drained, or it is
// main's and `exit` has run exeunt's `atexit` function already; `EXEUNT_EALREADY_ARMED`;
// `EXEUNT_ENO_MEMORY` where stacks share a page of memory, and others have taken the room in the
// stack map since the reservation; or `EXEUNT_EINVALID` for a reservation that is null or holds
// nothing. After an error nothing has changed, and `reservation` holds what it held.
// `exeunt_last_code` and `exeunt_last_error` do not tell of it, because a thread's first use of their
// storage may allocate.
//
// Thread-safe. Not for signal handlers.
//
// Requires: `exeunt_reserve` must have written `reservation`. The stack must be the running one, or
// its thread must be stopped until this returns. Its end must not have begun: its start routine has
// not returned, and the thread is not in `pthread_exit` and does not act on a cancellation. (Under
// slot redirect an end is missed that has read already where it goes on, and is in its last
// instructions: the handler is not called, and the record is left behind on memory that may be
// unmapped.) The thread must be in its start routine (or `main`) or in what that has called: its
// stack pointer is at or below the foot, or on another stack while its own one is suspended there.
// If a signal handler runs on this very stack, the stack pointer of the interrupted code counts. On
// aarch64 under slot redirect, an unwind of the stopped thread's registers, by unwind tables, must
// have led to this very word, as the one by which the start routine returns: the word alone does
// not show that the start routine has stored it, and has not loaded it yet. The thread must not be
// in a call into exeunt. The memory must be mapped, as for `exeunt_reserve`. `id` must be null or
// good to write to.
EXEUNT_CHECK_RESULT int exeunt_arm_reserved(struct exeunt_reservation *reservation, uint64_t *id);

// Gives back what `exeunt_reserve` has reserved. The handler is not called. Does nothing for a
// reservation that is null or holds nothing. It frees memory, so call it while all threads run.
//
// Thread-safe. Not for signal handlers.
//
// Requires: `exeunt_reserve` must have written `reservation`, unless it is null.
void exeunt_drop_reservation(struct exeunt_reservation *reservation);

#ifdef __cplusplus
} // extern "C"
#endif

#endif // EXEUNT_H
