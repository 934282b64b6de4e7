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
#define EXEUNT_VERSION_MAJOR @MAJOR@
#define EXEUNT_VERSION_MINOR @MINOR@
#define EXEUNT_VERSION_PATCH @PATCH@

// The same as a string.
#define EXEUNT_VERSION "@VERSION@"

#ifdef __cplusplus
extern "C" {
#endif

//@ version

// =================================================================================================
// Functions of yours, which exeunt calls
// =================================================================================================

//@ types

// =================================================================================================
// Handlers, and the identity of a stack
// =================================================================================================

//@ handlers

// =================================================================================================
// How a stack ends, and which stacks are armed
// =================================================================================================

//@ ending

// =================================================================================================
// The ends of all threads and of main: for tools that watch a whole program
// =================================================================================================

//@ every_end

// =================================================================================================
// Values: a pointer under a key, for each stack
//
// The key is the address of a variable of yours. A value that you get is a pointer that you have
// set, so you decide what it points to and who frees it.
// =================================================================================================

//@ values

// =================================================================================================
// Slots: the same under a number, which you allocate and free at run time
//
// There are 2,048 slots. A slot reads a little faster than a value under a key, and freeing it
// clears it on all stacks.
// =================================================================================================

//@ slots

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

//@ fibers

// =================================================================================================
// Fibers: scopes, where you can neither wrap the fiber's function nor register what calls it
// =================================================================================================

//@ scope

// =================================================================================================
// Errors
// =================================================================================================

//@ code

// =================================================================================================
// Patching code: for tools. Storage and handlers need nothing of this
// =================================================================================================

//@ patch

// =================================================================================================
// The redirect of the process
// =================================================================================================

//@ redirect

// =================================================================================================
// Arming by the address of a foot: for tools that arm threads which are stopped
// =================================================================================================

//@ reserve

#ifdef __cplusplus
} // extern "C"
#endif

#endif // EXEUNT_H
