// Exercise: find the secret. `words` are the memory above a foot. One word is the mangled `base`, and
// the next one a mangled address in code_low..code_high. Return the guard, or 0 if there is none.
// Mangled means: xor with the guard, then rotated left by 17.
uintptr_t find_guard(const uintptr_t *words, int count, uintptr_t base, uintptr_t code_low, uintptr_t code_high) {
    (void)words, (void)count, (void)base, (void)code_low, (void)code_high;
    return 0; // yours
}
