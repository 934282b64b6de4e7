#define _GNU_SOURCE
#include <execinfo.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
uintptr_t original;
static int drained, wrong;
extern char trampoline[];
#include EXERCISE
struct frame { struct frame *caller; uintptr_t return_address; };
static int reaches(uintptr_t address) {
    void *addresses[32]; int n = backtrace(addresses, 32), found = 0;
    for (int i = 0; i < n; i++) found += (uintptr_t)addresses[i] == address;
    return found == 1;
}
__attribute__((noinline)) void drain(void) {
    drained++;
    if (!reaches(original)) { printf("in the drain the backtrace does not reach libc\n"); wrong = 1; }
}
__attribute__((noinline)) void *entry(void *x) {
    struct frame *frame = __builtin_frame_address(0);
    original = frame->return_address;
    *(volatile uintptr_t *)&frame->return_address = (uintptr_t)trampoline;
    if (!reaches(original)) { printf("armed, the backtrace does not reach libc\n"); wrong = 1; }
    return x;
}
int main(void) {
    pthread_t thread; void *result;
    pthread_create(&thread, 0, entry, (void *)42); pthread_join(thread, &result);
    if (drained != 1 || result != (void *)42) { printf("drained %d times, result %p\n", drained, result); wrong = 1; }
    return wrong;
}
