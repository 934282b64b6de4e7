// Exercise: take the redirect back. The test redirects a foot as the program does. `undo` gets the
// foot, restores it, and returns 1. It must write nothing and return 0 where the foot does not hold
// the trampoline, since then another program part has put its own address there.
int undo(uintptr_t *foot, uintptr_t trampoline, uintptr_t original) {
    *foot = original; // yours
    (void)trampoline;
    return 1;
}
