// Two relatives: Win32's fiber-local storage, and a number in the call stack (gls). cc -g 15-relatives.c
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <unwind.h>

// FLS in small. An index is for all fibers, a value for one. The callback runs for each value where
// the fiber ends, and where the index is freed.
#define INDEXES 8
typedef void (*callback)(void *);
static struct { int used; callback callback; } indexes[INDEXES];
struct fiber { const char *name; void *values[INDEXES]; ucontext_t context; char *stack; struct fiber *next; };
static struct fiber thread_itself = {"the thread"}, *running = &thread_itself, *all = &thread_itself;

static int fls_alloc(callback f) {
    for (int i = 0; i < INDEXES; i++)
        if (!indexes[i].used) { indexes[i].used = 1; indexes[i].callback = f; return i; }
    return -1;
}
static void *fls_get(int i) { return running->values[i]; }
static void fls_set(int i, void *value) { running->values[i] = value; }
static void end_value(struct fiber *f, int i) {
    void *value = f->values[i];
    f->values[i] = 0; // before the callback: it runs once
    if (value && indexes[i].callback) indexes[i].callback(value);
}
static void fls_free(int i) {
    for (struct fiber *f = all; f; f = f->next) end_value(f, i);
    indexes[i].used = 0;
}
static void fiber_end(struct fiber *f) { for (int i = 0; i < INDEXES; i++) if (indexes[i].used) end_value(f, i); }
static void switch_to(struct fiber *to) {
    struct fiber *from = running;
    running = to;
    swapcontext(&from->context, &to->context);
}

static int name_index;
static void said(void *value) { printf("  callback: %s\n", (char *)value); }
static void body(void) {
    printf("  %s has %s\n", running->name, fls_get(name_index) ? "a value" : "no value yet");
    fls_set(name_index, (void *)running->name);
    switch_to(&thread_itself);
    printf("  %s, resumed, has \"%s\"\n", running->name, (char *)fls_get(name_index));
    fiber_end(running);
    switch_to(&thread_itself);
}
static void fiber_make(struct fiber *f, const char *name) {
    f->name = name, f->stack = malloc(64 * 1024), f->next = all, all = f;
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack, f->context.uc_stack.ss_size = 64 * 1024;
    makecontext(&f->context, body, 0);
}

// A tag: a number that is in the call stack. Sixteen functions are the digits. A return address says
// which function made the call.
typedef void (*work)(void);
static void digits(unsigned long number, int left, work f);
#define DIGIT(d) \
    __attribute__((noinline)) void digit##d(unsigned long n, int left, work f) { \
        digits(n, left, f); \
        __asm__ volatile("nop # digit " #d); \
    }
DIGIT(0) DIGIT(1) DIGIT(2) DIGIT(3) DIGIT(4) DIGIT(5) DIGIT(6) DIGIT(7)
DIGIT(8) DIGIT(9) DIGIT(10) DIGIT(11) DIGIT(12) DIGIT(13) DIGIT(14) DIGIT(15)
static void (*const digit[])(unsigned long, int, work) = {digit0, digit1, digit2, digit3, digit4, digit5, digit6, digit7,
    digit8, digit9, digit10, digit11, digit12, digit13, digit14, digit15};
static void digits(unsigned long number, int left, work f) { // the highest digit outermost
    if (left) digit[number >> 4 * (left - 1) & 15](number, left - 1, f);
    else f();
    __asm__ volatile("");
}
static _Unwind_Reason_Code read_digit(struct _Unwind_Context *context, void *data) {
    unsigned long *result = data; // [0] the number, [1] how far to shift
    for (int d = 0; d < 16; d++)
        if (_Unwind_FindEnclosingFunction((void *)(_Unwind_GetIP(context) - 1)) == (void *)digit[d])
            result[0] |= (unsigned long)d << result[1], result[1] += 4;
    return _URC_NO_REASON;
}
static unsigned long tag(void) {
    unsigned long result[2] = {0};
    _Unwind_Backtrace(read_digit, result);
    return result[0];
}
__attribute__((noinline)) static void works(void) { printf("  deep in the calls the tag is %#lx\n", tag()); }

int main(void) {
    printf("fiber-local storage:\n");
    static struct fiber one, two;
    name_index = fls_alloc(said);
    fiber_make(&one, "fiber one"), fiber_make(&two, "fiber two");
    switch_to(&one), switch_to(&two), switch_to(&one);
    printf("  the index is freed, while fiber two is suspended\n");
    fls_free(name_index);
    printf("tags:\n");
    digits(0xc0ffee, 6, works);
    digits(0x42, 2, works);
    return 0;
}
