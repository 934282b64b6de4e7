// Exercise: write a new address to a foot that may be signed. `strip` clears a signature, `sign` makes
// one. Return 1 if *foot leads to `new` afterwards. Write nothing and return 0 where the word is
// neither the plain `expected` address nor that address signed with `modifier`.
int replace(uintptr_t *foot, uintptr_t expected, uintptr_t new, uintptr_t modifier) {
    (void)expected, (void)modifier;
    *foot = new; // yours
    return 1;
}
