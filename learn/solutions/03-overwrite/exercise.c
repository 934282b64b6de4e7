int undo(uintptr_t *foot, uintptr_t trampoline, uintptr_t original) {
    if (*foot != trampoline) return 0; // the owner of that address still needs the word
    *foot = original;
    return 1;
}
