#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <unistd.h>
#include EXERCISE
static struct frame stack[16];
static int wrong;
static void expect(const char *what, uintptr_t *got, uintptr_t *want) {
    if (got != want) { printf("%s: %p, and not %p\n", what, (void *)got, (void *)want); wrong = 1; }
}
#define FIND(n) find_foot(&stack[n], 7777, (uintptr_t)stack, (uintptr_t)(stack + 16))
static void too_long(int s) { (void)s; (void)!write(1, "the walk does not end\n", 22); _exit(1); }
int main(void) {
    signal(SIGALRM, too_long);
    alarm(2);
    for (int i = 0; i < 15; i++) stack[i] = (struct frame){&stack[i + 1], 1000 + i};
    stack[9].return_address = 7777;
    expect("a whole chain", FIND(0), &stack[9].return_address);
    stack[4].caller = &stack[2];
    expect("a chain that leads back", FIND(0), 0);
    stack[4].caller = &stack[4];
    expect("a frame that is its own caller", FIND(0), 0);
    stack[4].caller = (struct frame *)16;
    expect("a pointer that is no stack", FIND(0), 0);
    stack[4].caller = (struct frame *)((char *)(stack + 16) - 8);
    expect("a frame across the stack's end", FIND(0), 0);
    stack[4].caller = (struct frame *)((char *)&stack[5] + 1);
    expect("a pointer that is not aligned", FIND(0), 0);
    return wrong;
}
