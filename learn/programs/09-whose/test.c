#include <stdint.h>
#include <stdio.h>
#include EXERCISE
static int wrong;
static void expect(const char *what, int got, int want) {
    if (got == want) return;
    printf("%s: %s\n", what, got ? "answers" : "does not answer");
    wrong = 1;
}
int main(void) {
    uintptr_t word = 77, page = 0x7f0000123000;
    struct record r = {page + 0x800, &word, 77};
    struct entry none = {0, 0}, e = {&r, 1UL << 3 | 1UL << 31 | 1UL << 32};
    expect("no owner", owner_of(&none, page + 3 * 64) != 0, 0);
    expect("an owned block", owner_of(&e, page + 3 * 64 + 63) == &r, 1);
    expect("a high block below the base", owner_of(&e, page + 31 * 64) == &r, 1);
    expect("the block below", owner_of(&e, page + 3 * 64 - 1) != 0, 0);
    expect("the block above", owner_of(&e, page + 4 * 64) != 0, 0);
    expect("at the base", owner_of(&e, page + 0x800) != 0, 0);
    word = 78;
    expect("another canary", owner_of(&e, page + 3 * 64) != 0, 0);
    return wrong;
}
