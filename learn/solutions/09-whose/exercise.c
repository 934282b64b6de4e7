struct record { uintptr_t base; const uintptr_t *canary; uintptr_t canary_word; };
struct entry { struct record *owner; uint64_t blocks; };

struct record *owner_of(const struct entry *entry, uintptr_t stack_pointer) {
    struct record *owner = entry->owner;
    if (!owner || !(entry->blocks >> (stack_pointer >> 6) % 64 & 1)) return 0;
    if (stack_pointer >= owner->base) return 0;
    return *owner->canary == owner->canary_word ? owner : 0;
}
