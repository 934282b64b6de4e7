// Constants that asm/*.S and src/exit/trampoline.rs must agree on.

// Entries of the pool: one for each distinct exit trampoline of the process.
#define TRAMPOLINES 64
// Bytes from one entry to the next.
#define TRAMPOLINE_SIZE 32
// Further entries, for stacks where a word above the base keeps the original address.
#define KEPT 64
// The largest page size of the supported systems. The cells share no page with anything else.
#define CELLS_ALIGN 65536
// Calls in exit trampolines that code redirect can lead to a hook.
#define HOOKS 32
