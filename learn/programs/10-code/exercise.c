// Exercise: compute the new four bytes of a call, or refuse. x86_64: `call` is e8, then the distance
// from the next instruction, signed, 32 bits. `site` is the address of the e8. Return 1 and set
// *word, or return 0 where the target is out of reach or the distance's four bytes do not lie in one
// aligned word of eight bytes.
int new_call(uint64_t site, uint64_t target, uint32_t *word) {
    *word = target - site; // yours
    return 1;
}
