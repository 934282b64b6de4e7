/* exeunt.h */
#ifndef EXEUNT_H
#define EXEUNT_H

#include <stddef.h>
#include <stdint.h>

#define EXEUNT_VERSION_MAJOR 0
#define EXEUNT_VERSION_MINOR 1
#define EXEUNT_VERSION_PATCH 0
#define EXEUNT_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

// A handler or a destructor.
//
// It must return. An exception that leaves it ends the process, and so does `pthread_exit` in it.
typedef void (*exeunt_fn)(void *arg);

// A fiber's function, for `exeunt_enter`. A C++ exception or forced unwinding may leave it.
typedef void *(*exeunt_entry)(void *arg);

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
// # Safety
// `handler` must be good to call with `arg` when the stack ends, on the thread that runs the stack
// then. Its code must stay loaded until then (link a plugin that may be unloaded with
// `-Wl,-z,nodelete`).
int exeunt_at_exit(exeunt_fn handler, void *arg);

// As `exeunt_at_exit`, for a handler that owns its `arg`. If `exeunt_unload` drops the handler,
// `forget` is called with `arg` instead, to free it. After an error neither is called, and `arg`
// is still yours.
//
// Returns and thread safety: as `exeunt_at_exit`.
//
// # Safety
// As `exeunt_at_exit`, for both functions.
int exeunt_at_exit_owned(exeunt_fn handler, exeunt_fn forget, void *arg);

// Destroys all values of the running stack, drops its handlers without calling them, and puts its
// exit back. Then the stack is as it was before it was armed.
//
// Returns 0, also if the stack is not armed.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
int exeunt_unload(void);

// The identity of the running stack, unique in the life of the process. Arms the stack if it is
// not armed. The identity stays the same until the stack ends or is unloaded, whichever thread
// runs it. 0 if the stack cannot be armed: `exeunt_last_code` and `exeunt_last_error` say why.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
uint64_t exeunt_id(void);

// Stores `value` under `key` on the running stack, and arms the stack if it is not armed.
//
// The key is the address alone. Use the address of a static variable that is not `const` (the
// compiler may merge such ones). Keys are compared as `==` compares pointers, so a tag in the
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
// # Safety
// `destructor` must be good to call with `value`, on the thread that runs the stack then. Its code
// must stay loaded.
int exeunt_set(const void *key, void *value, exeunt_fn destructor);

// The value under `key` on the running stack; null if there is none. Never arms the stack.
//
// Thread-safe: it concerns the running stack alone. Async-signal-safe: it returns null if the
// signal came in the middle of a change of this stack's values, and on an alternate signal stack.
void *exeunt_get(const void *key);

// Deletes the value under `key` on the running stack, and calls its destructor.
//
// Returns 0, or `EXEUNT_EABSENT` if there is none.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
int exeunt_del(const void *key);

// Destroys all values of the running stack, last set first, clears its slots, and keeps its
// handlers. This concerns the values of every language that shares this library.
//
// Returns 0, also if the stack is not armed.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
int exeunt_reset(void);

// Allocates a dynamic slot, as `TlsAlloc` does: an index that is never 0, under which every stack
// has a pointer of its own, null at first. `destructor`, which may be null, is called with each
// pointer that is not null: when its stack ends, and when the slot is freed.
//
// Returns 0; `EXEUNT_ESLOTS_EXHAUSTED` if 2,048 are allocated; `EXEUNT_EINVALID` for a null
// `slot`.
//
// Thread-safe. Not for signal handlers.
//
// # Safety
// `slot` must be good to write to, and `destructor` good to call with all values that will be set,
// on any thread.
int exeunt_slot_alloc(uint32_t *slot, exeunt_fn destructor);

// Sets the slot's pointer on the running stack, and arms the stack if it is not armed. The old
// pointer is overwritten, and its destructor is not called, as with `TlsSetValue`.
//
// Returns 0, `EXEUNT_ENO_SUCH_SLOT`, or the code for why the stack cannot be armed.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// # Safety
// `value` must be what the slot's destructor, and the code that reads it on this stack, take it
// for.
int exeunt_slot_set(uint32_t slot, void *value);

// Stores the slot's pointer on the running stack in `*value`: null if none was set, and on an
// alternate signal stack. Never arms the stack.
//
// Returns 0; `EXEUNT_ENO_SUCH_SLOT`, then `*value` is null; or `EXEUNT_EINVALID` for a null
// `value`.
//
// Thread-safe: it concerns the running stack alone. Async-signal-safe as long as it returns 0.
//
// # Safety
// `value` must be null or good to write to.
int exeunt_slot_get(uint32_t slot, void **value);

// Frees the slot. Its index is invalid from then on, and the pointers that stacks have set are
// gone. The destructor is called with each pointer that is not null, here and now. An index that
// is used again later is another slot.
//
// Returns 0, or `EXEUNT_ENO_SUCH_SLOT`, also if it was freed before.
//
// Thread-safe, if no stack uses this slot meanwhile. Not for signal handlers.
//
// # Safety
// No stack may use the slot or what it points to meanwhile.
int exeunt_slot_free(uint32_t slot);

// Calls `entry(arg)` as the running stack's entry function, on any stack at all. Stores what it
// returns in `*result`, unless `result` is null.
//
// For the function of a fiber that never returns to code of the system: Boost.Context,
// Boost.Fiber, or a switch of your own. When `entry` returns, its handlers run and its values are
// destroyed before `exeunt_enter` returns. A C++ exception or forced unwinding that leaves `entry`
// passes through, and drains the stack on the way.
//
// You pay nothing for what you do not use: the first use of storage in `entry` arms the stack.
//
// Leave `entry` only in these ways. A `longjmp` out of it leaves what is stored undrained. Nor is
// anything drained if the process ends in it, by `exit` for example, on any thread.
//
// Returns 0; `EXEUNT_EALREADY_ARMED` if the stack is armed already; `EXEUNT_EINVALID` for a null
// `entry`; or the code for why the trampoline cannot be set up. After an error `entry` has not
// been called.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// # Safety
// `entry` must be good to call with `arg`, and `result` be null or good to write to.
int exeunt_enter(exeunt_entry entry, void *arg, void **result);

// As `exeunt_enter`, on a stack whose memory is from `low` to `high`. It does not search for an
// armed stack here, so it costs little more than the call.
//
// Returns as `exeunt_enter`, or `EXEUNT_ENOT_ON_THAT_STACK`. After an error `entry` has not been
// called.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// # Safety
// As `exeunt_enter`. The memory must be that of the running stack, and no outer function on it may
// have armed it.
int exeunt_enter_on(const void *low, const void *high, exeunt_entry entry, void *arg, void **result);

// Declares that the stacks whose memory is from `low` to `high` will never run again, although
// their functions have not returned. Call it before you free the memory of a suspended fiber, or
// give it to another one.
//
// Each armed one is drained here and now, on the calling stack: storage that its handlers use is
// the caller's.
//
// Returns 0, also if no armed stack was found; `EXEUNT_EINVALID` if `low` is above `high`.
//
// Thread-safe, if no code resumes those stacks meanwhile. Not for signal handlers.
//
// # Safety
// The stacks must be suspended for ever: you must neither resume nor unwind them. The running
// stack must not be among them.
int exeunt_discard(const void *low, const void *high);

// Registers a runtime's wrapper as an exit trampoline: the code from `start` to `end`, which calls
// a fiber's function and, when that has returned, ends the fiber by switching away. Then fibers of
// that runtime can use everything without `exeunt_enter`, and the runtime stays as it is.
// minicoro's `_mco_main` is such a wrapper.
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
// # Safety
// `name` must be a string. Only entry functions may return into the code. The code must stay
// loaded, and the compiler must not have turned the call into a jump.
int exeunt_register_trampoline(const char *name, const void *start, const void *end);

// A scope. Make it an automatic variable of the function whose stack it serves. Its contents are
// private.
//
// Its size keeps the base of the stack in another cache line than the stack pointer of the
// function that holds it.
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
// is not in a frame of the running stack (but in a C++20 coroutine's, say); `EXEUNT_ESHARED_PAGE`
// on a stack so small that it shares a page with another live one. After an error there is no
// scope, and nothing to end.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// # Safety
// `scope` must be good to write to. It must stay where it is until `exeunt_scope_end` ends it on
// the same stack, or until the stack is discarded.
int exeunt_scope_begin(struct exeunt_scope *scope);

// Ends a scope: calls the stack's handlers, last in first out, and destroys its values, last set
// first, here and now.
//
// Returns 0, also if `exeunt_unload` has ended it already; `EXEUNT_ENOT_ON_THAT_STACK` on another
// stack than its own; `EXEUNT_EINVALID` for null.
//
// Thread-safe: it concerns the running stack alone. Not for signal handlers.
//
// # Safety
// `exeunt_scope_begin` must have started `scope`, and this function must not have ended it before.
int exeunt_scope_end(struct exeunt_scope *scope);

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
// # Safety
// `site` must be the first byte of an instruction in code that stays loaded, or no code at all.
// Until you undo it, `new_target` must be good to enter wherever `expected_target` is. No other
// code may change the protection of the page of `site` at the same time.
int exeunt_redirect_call(void *site, const void *expected_target, const void *new_target);

// Undoes `exeunt_redirect_call` at `site`: every byte is as before.
//
// Returns 0, `EXEUNT_EINVALID`, or `EXEUNT_ENO_CODE_SITE` if nothing is redirected at `site`, or
// if the system refuses now.
//
// Thread-safe. Not for signal handlers.
int exeunt_undo_redirect_call(void *site);

// Success.
#define EXEUNT_OK 0

// Unwinding this stack led to no known exit trampoline. `exeunt_last_error` says what was found.
#define EXEUNT_EUNKNOWN_TRAMPOLINE -1

// The code runs on a signal stack, which belongs to no thread or fiber.
#define EXEUNT_ESIGNAL_STACK -2

// The processor checks this thread's returns against a shadow stack.
#define EXEUNT_ESHADOW_STACK -3

// All trampolines, or all places for registered wrappers, are taken.
#define EXEUNT_EPOOL_FULL -4

// The system refused to change the protection of a page of the library's own.
#define EXEUNT_EPROTECTION -5

// Something else rewrites return addresses on this stack.
#define EXEUNT_EFOREIGN_FOOT -6

// The stack is armed already, so its end is fixed.
#define EXEUNT_EALREADY_ARMED -7

// The running code is not on the stack that was named.
#define EXEUNT_ENOT_ON_THAT_STACK -8

// All dynamic slots are allocated.
#define EXEUNT_ESLOTS_EXHAUSTED -9

// No dynamic slot is allocated under this index: it never was, or it was freed.
#define EXEUNT_ENO_SUCH_SLOT -10

// There is no memory.
#define EXEUNT_ENO_MEMORY -11

// An outer frame of this very stack is changing the stack's storage, or this thread is learning
// where stacks end.
#define EXEUNT_EBUSY -12

// A stack local was used while its own value was being created or dropped (Rust only).
#define EXEUNT_ERECURSIVE_INIT -13

// This stack has no value under this key.
#define EXEUNT_EABSENT -14

// A required argument is null, or a range is empty.
#define EXEUNT_EINVALID -15

// A defect of the library: it caught a panic of its own.
#define EXEUNT_EPANIC -16

// The scope's page belongs to another live stack as well. Use `exeunt_enter`.
#define EXEUNT_ESHARED_PAGE -17

// The code cannot be patched: that of an exit trampoline under code redirect, or what
// `exeunt_redirect_call` was given. `exeunt_last_error` says what was found.
#define EXEUNT_ENO_CODE_SITE -18

// The process uses another redirect than the one that was chosen, or the environment names an
// unknown one.
#define EXEUNT_EREDIRECT -19

// A call of a system function failed that exeunt needs to learn where stacks end, or to patch
// code. The next use tries again. `exeunt_last_error` names the call and its error number.
#define EXEUNT_ECALL_FAILED -20

// This stack's function has ended and its handlers have run. The caller is a destructor of a
// thread-local, of a pthread key or of a static, or an `atexit` function.
#define EXEUNT_EENDED -21

// `main` has not begun. The caller is a constructor, or the initialiser of a static.
#define EXEUNT_ETOO_EARLY -22

// The meaning of a code, in one sentence. The string is static: never null, and never to be freed.
//
// Thread-safe and async-signal-safe.
const char *exeunt_strerror(int code);

// The code of the last failure of a call on this thread, for functions that do not return one,
// such as `exeunt_id`. `EXEUNT_OK` if nothing has failed yet.
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
// # Safety
// `buffer` must be good to write `size` bytes to.
size_t exeunt_last_error(char *buffer, size_t size);

#ifdef __cplusplus
} // extern "C"
#endif

#endif // EXEUNT_H
