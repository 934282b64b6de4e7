#include <stdint.h>
#include <stdio.h>
static uintptr_t strip(uintptr_t x) { register uintptr_t lr __asm__("x30") = x; __asm__ volatile("xpaclri" : "+r"(lr)); return lr; }
static uintptr_t sign(uintptr_t x, uintptr_t modifier) {
    register uintptr_t address __asm__("x17") = x, m __asm__("x16") = modifier;
    __asm__ volatile("pacia1716" : "+r"(address) : "r"(m)); return address;
}
#include EXERCISE
static uintptr_t m = 0x5501000000;
static int wrong;
static void expect(const char *what, uintptr_t foot, int can, uintptr_t want) {
    uintptr_t word = foot; int got = replace(&word, 0x5500123450, 0x5500987650, m);
    if (got != can || word != want) { printf("%s: %d, %#lx became %#lx\n", what, got, foot, word); wrong = 1; }
}
int main(void) {
    // The keys are random, and a signature has few bits: choose a modifier whose signature is no 0.
    while (strip(sign(0x5500123450, m)) == sign(0x5500123450, m) || sign(0x5500123450, m) == (0x5500123450 | 1UL << 50)) m += 16;
    uintptr_t is_signed = sign(0x5500123450, m), other = m + 16;
    while (sign(0x5500123450, other) == is_signed || sign(0x5500123450, other) == 0x5500123450) other += 16;
    expect("a plain word", 0x5500123450, 1, 0x5500987650);
    expect("a signed word", is_signed, 1, sign(0x5500987650, m));
    expect("signed with another modifier", sign(0x5500123450, other), 0, sign(0x5500123450, other));
    expect("another address", sign(0x5500123454, m), 0, sign(0x5500123454, m));
    expect("a damaged signature", is_signed ^ 1UL << 50, 0, is_signed ^ 1UL << 50);
    return wrong;
}
