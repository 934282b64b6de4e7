// Finds the foot twice. cc -g -fno-omit-frame-pointer -rdynamic 02-foot.c -pthread
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <unwind.h>

struct frame { struct frame *caller; uintptr_t return_address; };
static uintptr_t exit_address; // where start routines return to

static const char *name(uintptr_t address) { // of the function that made the call
    Dl_info info;
    if (address == exit_address) return "the exit trampoline";
    return dladdr((void *)(address - 1), &info) && info.dli_sname ? info.dli_sname : "?";
}

// An experiment: the start routine of a thread of our own notes where it returns to.
__attribute__((noinline)) void *probe(void *x) {
    exit_address = (uintptr_t)__builtin_return_address(0);
    return x;
}

__attribute__((noinline)) uintptr_t *by_frame_pointers(void) {
    struct frame *frame = __builtin_frame_address(0);
    while (frame->return_address != exit_address) {
        printf("  a frame pointer leads to a return into %s\n", name(frame->return_address));
        frame = frame->caller;
    }
    printf("  a frame pointer leads to a return into %s: the foot\n", name(frame->return_address));
    return &frame->return_address;
}

struct found { uintptr_t foot_cfa; int after; };
static _Unwind_Reason_Code step(struct _Unwind_Context *context, void *data) {
    struct found *found = data;
    uintptr_t address = _Unwind_GetIP(context);
    if (found->foot_cfa) found->after++; // frames of libc's own, after the foot
    // The step for start_thread's frame: its place is the return address of the entry function. For that
    // frame _Unwind_GetCFA gives the stack pointer before the call, which is the CFA of the entry function.
    if (address == exit_address) found->foot_cfa = _Unwind_GetCFA(context);
    return _URC_NO_REASON;
}

__attribute__((noinline)) void deep(int n) {
    if (n) {
        deep(n - 1);
        __asm__ volatile(""); // work to do after the call, so that it is a call and no jump
        return;
    }
    uintptr_t *foot = by_frame_pointers();
    struct found found = {0};
    _Unwind_Backtrace(step, &found);
    printf("  the unwinder finds the exit trampoline, and frames of libc after it: %s\n",
           found.after > 0 ? "yes" : "no");
#if defined(__x86_64__)
    // A CFA is the address right above a frame's return address.
    printf("  the foot is the word below the entry function's CFA: %s\n",
           (uintptr_t)foot == found.foot_cfa - 8 ? "yes" : "no");
#else
    printf("  the foot is below the entry function's CFA, in the function's own frame: %s\n",
           (uintptr_t)foot < found.foot_cfa && found.foot_cfa - (uintptr_t)foot < 200 ? "yes" : "no");
#endif
    printf("  the foot %s the address that the probe has noted\n",
           *foot == exit_address ? "holds" : "does not hold");
}

void *entry(void *x) { deep(2); __asm__ volatile(""); return x; }

int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, probe, 0);
    pthread_join(thread, 0);
    printf("start routines return to %#lx\n", exit_address);
    pthread_create(&thread, 0, entry, 0);
    pthread_join(thread, 0);
    return 0;
}
