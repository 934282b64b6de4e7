/* Fibers that end in each way; with an argument, one of them ends the process. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static ucontext_t outside, chained, moving;

/* Memory below which nothing can be read. */
static char *memory(size_t size) {
    char *pages = mmap(NULL, size + 0x4000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages, 0x4000, PROT_NONE)) abort();
    return pages + 0x4000;
}

static void make(ucontext_t *context, char *stack, size_t size, ucontext_t *link, void (*function)(void)) {
    if (getcontext(context)) abort();
    context->uc_stack = (stack_t){.ss_sp = stack, .ss_size = size};
    context->uc_link = link;
    makecontext(context, function, 0);
}

void goes_deep(void) {
    volatile char bytes[100 << 10];
    for (size_t at = 0; at < sizeof bytes; at += 512) bytes[at] = 1;
}
void is_small(void) { printf("small\n"); }
void adds(int a, int b, int c, int d, int e, int f, int g, int h, int i) {
    printf("%d\n", a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f + 1000000 * g + 10000000 * h + 100000000 * i);
}
void is_first(void) { printf("first\n"); }
void is_next(void) { printf("next\n"); }
void suspends(void) { swapcontext(&moving, &outside); }
void suspends_elsewhere(void) {
    ucontext_t here;
    swapcontext(&here, &outside);
}
void moves(void) {
    suspends();
    suspends();
    printf("moved\n");
}
void never_runs(void) {}
void leaves(void) { setcontext(&outside); }
void ends_all(void) { exit(7); }
void *resumes(void *word) {
    ucontext_t before = outside;
    swapcontext(&outside, &moving);
    outside = before;
    return word;
}
void *returns(void *word) { return word; }
void creates(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, returns, NULL);
    pthread_join(thread, NULL);
}

int main(int count, char **arguments) {
    (void)arguments;
    ucontext_t context;
    char *large = memory(256 << 10), *small = memory(8 << 10), *used_again = memory(64 << 10);
    if (count > 1) {
        make(&context, large, 256 << 10, &outside, ends_all);
        swapcontext(&outside, &context);
    }
    make(&context, large, 256 << 10, &outside, goes_deep);
    swapcontext(&outside, &context);
    make(&context, small, 8 << 10, &outside, is_small);
    setvbuf(stdout, NULL, _IOLBF, 1024);
    swapcontext(&outside, &context);
    /* Arguments in registers and on the stack. */
    if (getcontext(&context)) abort();
    context.uc_stack = (stack_t){.ss_sp = memory(64 << 10), .ss_size = 64 << 10};
    context.uc_link = &outside;
    makecontext(&context, (void (*)(void))adds, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9);
    swapcontext(&outside, &context);
    /* One ends and libc goes on with another. */
    make(&chained, memory(64 << 10), 64 << 10, &outside, is_next);
    make(&context, memory(64 << 10), 64 << 10, &chained, is_first);
    swapcontext(&outside, &context);
    /* It begins here, goes on on another thread, and ends here. */
    make(&moving, memory(64 << 10), 64 << 10, &outside, moves);
    swapcontext(&outside, &moving);
    pthread_t thread;
    if (pthread_create(&thread, NULL, resumes, NULL) || pthread_join(thread, NULL)) abort();
    swapcontext(&outside, &moving);
    make(&context, memory(64 << 10), 64 << 10, &outside, creates);
    swapcontext(&outside, &context);
    /* What is saved once may be resumed more than once. */
    volatile int rounds = 0;
    make(&context, used_again, 64 << 10, NULL, leaves);
    swapcontext(&outside, &context);
    printf("round %d\n", ++rounds);
    if (rounds < 3) {
        make(&context, used_again, 64 << 10, NULL, leaves);
        setcontext(&context);
    }
    /* The memory serves another one. No other fiber is made meanwhile, whose base might have the
     * same place in the library's list. */
    make(&moving, used_again, 64 << 10, &outside, suspends);
    swapcontext(&outside, &moving);
    make(&context, used_again, 64 << 10, &outside, is_first);
    swapcontext(&outside, &context);
    make(&moving, memory(64 << 10), 64 << 10, &outside, suspends);
    swapcontext(&outside, &moving);
    char *unmapped = memory(64 << 10);
    make(&context, unmapped, 64 << 10, &outside, suspends_elsewhere);
    swapcontext(&outside, &context);
    munmap(unmapped, 64 << 10);
    make(&context, memory(64 << 10), 64 << 10, &outside, never_runs);
    return 0;
}
