// Whose stack is this? A page map, blocks, a canary. cc -g 09-whose.c
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#define TRAMPOLINE 0x7a7a7a7a7a7a7a7aUL // stands for a trampoline's address: no foot is overwritten here
struct record { const char *name; uintptr_t *canary; uintptr_t canary_word; };
struct entry { uintptr_t page; struct record *owner; uint64_t blocks; } map[256];

static struct entry *entry_of(uintptr_t address) { // one entry a page; no two pages collide here
    return &map[(address >> 12) % 256];
}
static uint64_t block_bit(uintptr_t address) { return 1UL << (address >> 6) % 64; } // 64 blocks of 64 bytes

struct answers { const char *page, *block, *canary; };
static struct answers ask(uintptr_t stack_pointer) {
    struct entry *e = entry_of(stack_pointer);
    struct answers a = {"nobody", "unknown", "unknown"}; // unknown: walk to the foot
    if (!e->owner) return a;
    a.page = e->owner->name;
    if (!(e->blocks & block_bit(stack_pointer))) return a;
    a.block = e->owner->name;
    a.canary = *e->owner->canary == e->owner->canary_word ? e->owner->name : "abandoned";
    return a;
}
static void add_block(struct record *record, uintptr_t stack_pointer) {
    struct entry *e = entry_of(stack_pointer);
    if (!e->owner) e->owner = record;
    if (e->owner == record) e->blocks |= block_bit(stack_pointer);
}

static ucontext_t home, fiber;
static struct record first = {"first", 0, TRAMPOLINE};
static uintptr_t *canary_word(void *memory, size_t size) { // the highest word: here it stands for the foot
    return (uintptr_t *)((char *)memory + size) - 1;
}
static void run(void (*f)(void), void *memory, size_t size) {
    getcontext(&fiber);
    fiber.uc_stack.ss_sp = memory;
    fiber.uc_stack.ss_size = size - 64; // the highest 64 bytes are left to the canary
    fiber.uc_link = &home;
    makecontext(&fiber, f, 0);
    swapcontext(&home, &fiber);
}
static char *middle, *memory;
static size_t size;
static struct answers first_answers, neighbour_answers, next_answers;
#define HERE (uintptr_t)__builtin_frame_address(0)

static void arms_and_leaves(void) { // a fiber that is never resumed
    first.canary = canary_word(memory, size);
    *first.canary = TRAMPOLINE;
    add_block(&first, HERE);
    first_answers = ask(HERE);
    swapcontext(&fiber, &home);
}
static void neighbour(void) { neighbour_answers = ask(HERE); }
static void next_fiber(void) { next_answers = ask(HERE); }
static void print(const char *who, struct answers a) {
    printf("%s  page: %-6s  block: %-7s  block and canary: %s\n", who, a.page, a.block, a.canary);
}

int main(void) {
    // Two stacks share a page: the first one ends in the middle of it, the other one is the rest.
    memory = aligned_alloc(4096, 16 * 4096);
    middle = memory + 8 * 4096 + 2048;
    size = middle - memory;
    run(arms_and_leaves, memory, size);
    run(neighbour, middle, 2048);
    // The first fiber's memory is used again, without a word to us. The new stack's foot, an ordinary
    // return address, overwrites the canary.
    *canary_word(memory, size) = 0x1234;
    run(next_fiber, memory, size);
    print("the first fiber        ", first_answers);
    print("a neighbour            ", neighbour_answers);
    print("the next on that memory", next_answers);
    return 0;
}
