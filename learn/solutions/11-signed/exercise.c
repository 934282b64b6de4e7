int replace(uintptr_t *foot, uintptr_t expected, uintptr_t new, uintptr_t modifier) {
    if (*foot == expected) *foot = new; // this function does not sign
    else if (strip(*foot) == expected && sign(expected, modifier) == *foot) *foot = sign(new, modifier);
    else return 0;
    return 1;
}
