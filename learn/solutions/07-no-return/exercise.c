static uintptr_t back(uintptr_t x) { return x >> 17 | x << 47; }
uintptr_t find_guard(const uintptr_t *words, int count, uintptr_t base, uintptr_t code_low, uintptr_t code_high) {
    for (int i = 0; i + 1 < count; i++) {
        uintptr_t guard = back(words[i]) ^ base, code = back(words[i + 1]) ^ guard;
        if (code >= code_low && code < code_high) return guard;
    }
    return 0;
}
