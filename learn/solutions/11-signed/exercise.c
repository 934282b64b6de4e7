int replace(uintptr_t *foot, uintptr_t expected, uintptr_t new, uintptr_t modifier, int (*table_signs)(void)) {
    uintptr_t new_signed = sign(new, modifier);
    int plain = *foot == expected, is_signed = *foot == sign(expected, modifier);
    if (!plain && !is_signed) return 0;
    if (plain && is_signed && new_signed != new) is_signed = table_signs(); // the word does not say
    *foot = is_signed ? new_signed : new;
    return 1;
}
