#include <stdint.h>
#include <stdio.h>
__attribute__((unused)) static uintptr_t strip(uintptr_t x) {
    register uintptr_t lr __asm__("x30") = x;
    __asm__ volatile("xpaclri" : "+r"(lr));
    return lr;
}
static uintptr_t sign(uintptr_t x, uintptr_t modifier) {
    register uintptr_t address __asm__("x17") = x, m __asm__("x16") = modifier;
    __asm__ volatile("pacia1716" : "+r"(address) : "r"(m)); return address;
}
#include EXERCISE
static uintptr_t m = 0x5501000000;
static int wrong, says, asked;
static int table_signs(void) { asked++; return says; }
#define OLD 0x5500123450
#define NEW 0x5500987650
static void expect(const char *what, uintptr_t foot, int ask, int can, uintptr_t want) {
    uintptr_t word = foot; asked = 0;
    int got = replace(&word, OLD, NEW, m, table_signs);
    if (got != can || word != want) { printf("%s: %d, %#lx became %#lx\n", what, got, foot, word); wrong = 1; }
    if (!asked != !ask) { printf("%s: the table was %s\n", what, asked ? "read for nothing" : "not read"); wrong = 1; }
}
int main(void) {
    // The keys are random, and a signature has few bits: choose modifiers for the cases.
    while (sign(OLD, m) == OLD || sign(NEW, m) == NEW || sign(OLD, m) == (OLD | 1UL << 50)) m += 16;
    uintptr_t is_signed = sign(OLD, m), other = m + 16;
    while (sign(OLD, other) == is_signed || sign(OLD, other) == OLD) other += 16;
    expect("a plain word", OLD, 0, 1, NEW);
    expect("a signed word", is_signed, 0, 1, sign(NEW, m));
    expect("signed with another modifier", sign(OLD, other), 0, 0, sign(OLD, other));
    expect("another address", sign(OLD + 4, m), 0, 0, sign(OLD + 4, m));
    expect("a damaged signature", is_signed ^ 1UL << 50, 0, 0, is_signed ^ 1UL << 50);
    while (sign(OLD, m) != OLD || sign(NEW, m) == NEW) m += 16;
    for (says = 0; says < 2; says++) expect("a signature that is 0 by chance", OLD, 1, 1, says ? sign(NEW, m) : NEW);
    return wrong;
}
