#include <stdint.h>
struct frame { struct frame *caller; uintptr_t return_address; };

uintptr_t *find_foot(struct frame *frame, uintptr_t exit_address, uintptr_t low, uintptr_t high) {
    for (;;) {
        uintptr_t at = (uintptr_t)frame;
        // In the stack with both words, aligned; and each step goes outwards, so that it must end.
        if (at < low || at >= high || high - at < sizeof *frame || at % sizeof(void *)) return 0;
        if (frame->return_address == exit_address) return &frame->return_address;
        low = at + sizeof *frame;
        frame = frame->caller;
    }
}
