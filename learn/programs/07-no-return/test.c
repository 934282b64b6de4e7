#include <stdint.h>
#include <stdio.h>
#include EXERCISE
static uintptr_t mangle(uintptr_t p, uintptr_t guard) { p ^= guard; return p << 17 | p >> 47; }
int main(void) {
    uintptr_t words[12], base = 0x7f1234567890, code = 0x7f5555000000, guard = 0x1badcafe5eedf00d;
    int wrong = 0;
    for (int place = 0; place < 11; place++, guard = guard * 6364136223846793005 + 1) {
        for (int i = 0; i < 12; i++) words[i] = i * 0x123456789abcdef;
        words[place] = mangle(base, guard), words[place + 1] = mangle(code + 0x89, guard);
        uintptr_t got = find_guard(words, 12, base, code, code + 4096);
        if (got != guard) { printf("guard %#lx at word %d: found %#lx\n", guard, place, got); wrong = 1; }
    }
    words[11] = 1, words[10] = 2;
    if (find_guard(words, 10, base, code, code + 4096)) { printf("found a guard where there is none\n"); wrong = 1; }
    return wrong;
}
