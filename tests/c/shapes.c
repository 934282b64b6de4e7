// Entry functions and frames of many shapes. Each arms its thread from an inner frame, and ends.
#include "common.h"
#include <alloca.h>
#include <stdalign.h>

#define APART __attribute__((noinline, noclone))

static struct life life;

APART static void arm_here(void) {
    arm(&life, "shape");
    struct bridge_foot foot;
    MUST(bridge_foot(&foot) == 0);
    // A signature is in the bits that addresses do not use.
    say("foot %s", foot.word >> 48 == 0 ? "plain" : "signed");
}

// Frames between the entry function and the place where it arms.

APART static int below_plain(int n) {
    volatile int local = n;
    arm_here();
    return local;
}

APART static int below_realigned(int n) {
    // More than the ABI's 16: the compiler realigns the stack, and on x86_64 the frame's rule is an
    // expression.
    alignas(64) volatile char block[256];
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (char)n;
    MUST((uintptr_t)block % 64 == 0);
    int result = below_plain(n);
    return result + block[n] - (char)n;
}

APART static int below_vla(int n) {
    volatile char block[n * 700 + 1];
    block[n] = (char)n;
    int result = below_realigned(n);
    return result + block[n] - (char)n;
}

APART static int below_alloca(int n) {
    volatile char *block = alloca((size_t)n * 900);
    block[n] = (char)n;
    int result = below_vla(n);
    return result + block[n] - (char)n;
}

APART static int below_large(int n) {
    volatile char block[40000];
    block[n] = (char)n;
    int result = below_alloca(n);
    return result + block[n] - (char)n;
}

// Entry functions.

static void *plain(void *argument) { return (char *)argument + below_plain(3); }

static void *realigned(void *argument) {
    alignas(64) volatile char block[256];
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = 3;
    MUST((uintptr_t)block % 64 == 0);
    return (char *)argument + below_realigned(block[9]);
}

static void *realigned_vla(void *argument) {
    volatile int n = 3;
    alignas(64) volatile char fixed[64];
    volatile char block[n * 300];
    fixed[n] = block[n] = (char)n;
    MUST((uintptr_t)fixed % 64 == 0);
    return (char *)argument + below_vla(fixed[n] + block[n] - n);
}

static void *vla(void *argument) {
    volatile int n = 3;
    volatile char block[n * 5000];
    block[n] = (char)n;
    return (char *)argument + below_alloca(block[n]);
}

static void *large(void *argument) {
    volatile char block[100000];
    block[5] = 3;
    return (char *)argument + below_large(block[5]);
}

// Many saved registers, and floating-point ones, which live across the call.
static void *busy(void *argument) {
    volatile int seed = 3;
    int a = seed, b = a * seed, c = b * seed, d = c * seed, e = d * seed, f = e * seed;
    volatile double half = 0.5;
    double x = half * a, y = half * b, z = x * y;
    int n = below_large(a);
    MUST(a == 3 && b == 9 && c == 27 && d == 81 && e == 243 && f == 729 && x == 1.5 && y == 4.5 && z == 6.75);
    return (char *)argument + n;
}

// Its last call is a jump, so the callee is the entry function then.
static void *tail(void *argument) { return busy(argument); }

// Armed on the first line, before it has called anything else; its later calls are further in.
static void *early(void *argument) {
    arm_here();
    volatile int n = 3;
    return (char *)argument + n;
}

#if defined(__AVX__)
#include <immintrin.h>
// 32-byte vectors kept on the stack across a call.
static void *vectors(void *argument) {
    volatile double seed = 1.5;
    __m256d a = _mm256_set1_pd(seed), b = _mm256_set1_pd(seed * 2);
    int n = below_realigned(3);
    __m256d sum = _mm256_add_pd(a, b);
    MUST(sum[0] == 4.5 && sum[3] == 4.5);
    return (char *)argument + n;
}
#endif

int main(void) {
#define SHAPE(routine) told_thread(routine, #routine)
    SHAPE(plain);
    SHAPE(realigned);
    SHAPE(realigned_vla);
    SHAPE(vla);
    SHAPE(large);
    SHAPE(busy);
    SHAPE(tail);
    SHAPE(early);
#if defined(__AVX__)
    SHAPE(vectors);
#endif
    return below_large(39);
}
