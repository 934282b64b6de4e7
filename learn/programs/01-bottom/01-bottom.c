// What is at the bottom of a stack. cc -g -fno-omit-frame-pointer -rdynamic 01-bottom.c -pthread
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

static const char *object(uintptr_t address) { // which file's code is at this address
    Dl_info info;
    if (!dladdr((void *)address, &info)) return "?";
    const char *slash = strrchr(info.dli_fname, '/');
    slash = slash ? slash + 1 : info.dli_fname;
    return strncmp(slash, "lib", 3) ? "this program" : slash;
}

// The two words that a function with a frame pointer keeps: its caller's frame pointer, and the
// address that it returns to.
struct frame { struct frame *caller; uintptr_t return_address; };

__attribute__((noinline)) void inner(const char *stack) {
    struct frame *frame = __builtin_frame_address(0);
    printf("%s\n", stack);
    printf("  inner's frame is below its caller's: %s\n", frame < frame->caller ? "yes" : "no");
    printf("  inner returns into %s\n", object(frame->return_address));
    frame = frame->caller; // the frame of the entry function
    printf("  its caller returns into %s\n", object(frame->return_address));
}

void *start_routine(void *x) { inner("a thread"); __asm__ volatile(""); return x; }
void fiber(void) { inner("a fiber"); __asm__ volatile(""); }

int main(void) {
    inner("the main thread");
    pthread_t thread;
    pthread_create(&thread, 0, start_routine, 0);
    pthread_join(thread, 0);
    static char memory[64 * 1024];
    static ucontext_t here, there;
    getcontext(&there);
    there.uc_stack.ss_sp = memory;
    there.uc_stack.ss_size = sizeof memory;
    there.uc_link = &here; // where execution goes on after `fiber` has returned
    makecontext(&there, fiber, 0);
    swapcontext(&here, &there);
    printf("back on the main thread\n");
    return 0;
}
