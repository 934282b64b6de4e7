// The results of entry functions, seen by a wrapper that is registered as their exit trampoline.
// Meanwhile a handler uses every register that could hold a result.
#include "common.h"
#include <complex.h>

#define WRAPPER __attribute__((noinline, noclone, section("wrappers")))
extern char __start_wrappers[], __stop_wrappers[];

static int handlers;

static void busy_handler(void *argument) {
    (void)argument;
    handlers++;
#if defined(__x86_64__)
    __asm__ volatile("mov $-1, %%rax; mov $-1, %%rdx; pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm1, %%xmm1; "
                     "pcmpeqd %%xmm2, %%xmm2" ::: "rax", "rdx", "xmm0", "xmm1", "xmm2");
#elif defined(__aarch64__)
    __asm__ volatile("mov x0, #-1; mov x1, #-1; mov x2, #-1; mov x7, #-1; mov x8, #-1; movi v0.2d, #0; movi v1.2d, #0; "
                     "movi v2.2d, #0; movi v3.2d, #0" ::: "x0", "x1", "x2", "x7", "x8", "v0", "v1", "v2", "v3");
#endif
}

__attribute__((noinline)) static void arm_here(void) {
    MUST(bridge_at_exit(busy_handler, NULL) == 0);
    struct bridge_foot foot;
    MUST(bridge_foot(&foot) == 0);
    MUST(foot.original >= (uintptr_t)__start_wrappers && foot.original < (uintptr_t)__stop_wrappers);
}

struct pair { long first, second; };
struct mixed { double real; long whole; };
struct three { double x, y, z; };
struct large { long words[9]; };

#define RESULT(type, name, value)                                                                                      \
    __attribute__((noinline, noclone)) static type name(void) {                                                        \
        arm_here();                                                                                                    \
        return value;                                                                                                  \
    }
RESULT(int, an_int, -123456)
RESULT(void *, a_pointer, (void *)0xfedcba9876543210)
RESULT(float, a_float, 1.25f)
RESULT(double, a_double, -0.1)
RESULT(__int128, an_int128, ((__int128)0x1122334455667788 << 64) | 0x99aabbccddeeff00)
RESULT(double complex, a_complex, 1.5 - 2.5 * I)
RESULT(struct pair, a_pair, ((struct pair){11, 22}))
RESULT(struct mixed, a_mixed, ((struct mixed){3.5, 33}))
RESULT(struct three, a_three, ((struct three){1.5, 2.5, 3.5}))
RESULT(struct large, a_large, ((struct large){{1, 2, 3, 4, 5, 6, 7, 8, 9}}))

// A thread's entry function returns in one register only. The wrapper calls a function of each
// kind, and keeps its result.
static union {
    int an_int;
    void *a_pointer;
    float a_float;
    double a_double;
    __int128 an_int128;
    double complex a_complex;
    struct pair a_pair;
    struct mixed a_mixed;
    struct three a_three;
    struct large a_large;
} kept;

// Wrappers make a call when the function has returned, as those that end a coroutine do: code
// redirect needs one.
__attribute__((noinline, noclone)) static void end_of_a_wrapper(void) { __asm__ volatile("" ::: "memory"); }

#define KEEP(name)                                                                                                     \
    WRAPPER static void *keep_##name(void *argument) {                                                                 \
        kept.name = name();                                                                                            \
        end_of_a_wrapper();                                                                                            \
        return argument;                                                                                               \
    }
KEEP(an_int)
KEEP(a_pointer)
KEEP(a_float)
KEEP(a_double)
KEEP(an_int128)
KEEP(a_complex)
KEEP(a_pair)
KEEP(a_mixed)
KEEP(a_three)
KEEP(a_large)

static void on_a_thread(void *(*routine)(void *)) {
    pthread_t thread;
    int before = handlers;
    MUST(pthread_create(&thread, NULL, routine, NULL) == 0);
    MUST(pthread_join(thread, NULL) == 0);
    MUST(handlers == before + 1);
}

int main(void) {
    MUST(bridge_register("wrapper", (uintptr_t)__start_wrappers, (uintptr_t)__stop_wrappers) == 0);
    on_a_thread(keep_an_int);
    say("int %d", kept.an_int);
    on_a_thread(keep_a_pointer);
    say("pointer %p", kept.a_pointer);
    on_a_thread(keep_a_float);
    say("float %a", (double)kept.a_float);
    on_a_thread(keep_a_double);
    say("double %a", kept.a_double);
    on_a_thread(keep_an_int128);
    say("int128 %lx %lx", (long)(kept.an_int128 >> 64), (long)kept.an_int128);
    on_a_thread(keep_a_complex);
    say("complex %g %g", creal(kept.a_complex), cimag(kept.a_complex));
    on_a_thread(keep_a_pair);
    say("pair %ld %ld", kept.a_pair.first, kept.a_pair.second);
    on_a_thread(keep_a_mixed);
    say("mixed %g %ld", kept.a_mixed.real, kept.a_mixed.whole);
    on_a_thread(keep_a_three);
    say("three %g %g %g", kept.a_three.x, kept.a_three.y, kept.a_three.z);
    on_a_thread(keep_a_large);
    long sum = 0;
    for (int i = 0; i < 9; i++)
        sum = sum * 10 + kept.a_large.words[i];
    say("large %ld", sum);
    return 0;
}
