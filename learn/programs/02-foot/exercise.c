// Exercise: the same walk, made safe. A frame pointer may hold anything, since code may use that
// register as it likes. Return the address of the foot, or 0 where the chain does not lead there.
// Never read an address outside low..high, and never loop.
#include <stdint.h>
struct frame { struct frame *caller; uintptr_t return_address; };

uintptr_t *find_foot(struct frame *frame, uintptr_t exit_address, uintptr_t low, uintptr_t high) {
    while (frame->return_address != exit_address) frame = frame->caller; // yours
    (void)low, (void)high;
    return &frame->return_address;
}
