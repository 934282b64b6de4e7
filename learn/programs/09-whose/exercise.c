// Exercise: may this entry of the page map answer? It may where the owner was seen in the stack
// pointer's block of 64 bytes, the stack pointer is below the owner's base, and the canary holds.
struct record { uintptr_t base; const uintptr_t *canary; uintptr_t canary_word; };
struct entry { struct record *owner; uint64_t blocks; }; // bit n: block n of the page

struct record *owner_of(const struct entry *entry, uintptr_t stack_pointer) {
    (void)stack_pointer;
    return entry->owner; // yours
}
