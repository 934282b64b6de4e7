// Exercise: return the number of bytes from the word that holds this function's return address up to
// the word that holds its caller's return address. Use frame records: no other function may be
// called.
struct frame { struct frame *caller; uintptr_t return_address; };

__attribute__((noinline)) long distance(void) {
    return 0; // yours
}
