#include <stdint.h>
#include <stdio.h>
#include EXERCISE
static int wrong;
static void expect(uint64_t site, uint64_t target, int can, uint32_t want) {
    uint32_t word = 0; int got = new_call(site, target, &word);
    if (got != can || (can && word != want)) {
        printf("%#lx -> %#lx: %d, %#x; it is %d, %#x\n", site, target, got, word, can, want);
        wrong = 1;
    }
}
int main(void) {
    expect(0x1003, 0x2008, 1, 0x1000);
    expect(0x1003, 0x1000, 1, -8);
    expect(0x1003, 0x1008L + 0x7fffffff, 1, 0x7fffffff);
    expect(0x1003, 0x1008L + 0x80000000, 0, 0);
    expect(0x100001003, 0x100001008 - 0x80000000, 1, 0x80000000);
    expect(0x100001003, 0x100001007 - 0x80000000, 0, 0);
    expect(0x1002, 0x2000, 1, 0xff9); // bytes 3 to 6 of an aligned eight
    expect(0x1004, 0x2000, 0, 0);     // one byte is in the next eight
    expect(0x1006, 0x2000, 0, 0);
    expect(0x1007, 0x2000, 1, 0xff4);
    return wrong;
}
