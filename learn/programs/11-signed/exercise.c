// Exercise: write a new address to a foot that may be signed. `strip` clears a signature, `sign` makes
// one. Return 1 if *foot leads to `new` afterwards, in the way in which this function returns. Write
// nothing and return 0 where the word is neither the plain `expected` address nor that address signed
// with `modifier`. Where it is both, `table_signs()` is 1 if the function's table says that it signs,
// else 0. Reading tables is slow: call it only if it matters.
int replace(uintptr_t *foot, uintptr_t expected, uintptr_t new, uintptr_t modifier, int (*table_signs)(void)) {
    (void)expected, (void)modifier, (void)table_signs;
    *foot = new; // yours
    return 1;
}
