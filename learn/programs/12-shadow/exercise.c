// Exercise: the comparison itself, for code that also jumps out of functions (longjmp). At a call you
// get the stack word's address and the return address; at a return the stack word's address and where
// it leads. A return that has left frames behind is no error: their words lie below. Return 1 for a
// mismatch, else 0.
struct shadow { int depth; struct { uintptr_t at, address; } entry[64]; };

int at_call(struct shadow *s, uintptr_t at, uintptr_t address) { (void)s, (void)at, (void)address; return 0; }
int at_return(struct shadow *s, uintptr_t at, uintptr_t address) { (void)s, (void)at, (void)address; return 0; }
