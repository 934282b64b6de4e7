// What the assembly and src/exit/trampoline.rs must agree on; the latter's tests compare.
#define TRAMPOLINES 64          // entries of the pool
#define TRAMPOLINE_SIZE 32      // bytes from one entry to the next
#define KEPT 64                 // further entries, for an original address that the stack itself keeps
#define CELLS_ALIGN 65536       // the largest page size of the systems we run on: the cells share no page with anything
#define HOOKS 32                // calls in exit trampolines that code redirect can lead to us
