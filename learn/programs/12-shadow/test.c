#include <stdint.h>
#include <stdio.h>
#include EXERCISE
static struct shadow s;
static int wrong;
static void expect(const char *what, int got, int want) {
    if (got == want) return;
    printf("%s: %s\n", what, got ? "a mismatch" : "no mismatch");
    wrong = 1;
}
int main(void) {
    at_call(&s, 1000, 1); at_call(&s, 900, 2); at_call(&s, 800, 3);
    expect("a return", at_return(&s, 800, 3), 0);
    expect("another return", at_return(&s, 900, 2), 0);
    at_call(&s, 900, 4); at_call(&s, 800, 5); at_call(&s, 700, 6);
    expect("a return after a jump out of two functions", at_return(&s, 900, 4), 0);
    at_call(&s, 900, 7);
    expect("a rewritten address", at_return(&s, 900, 77), 1);
    at_call(&s, 900, 8); at_call(&s, 800, 9); at_call(&s, 900, 10); // a jump, then a call from the same place
    expect("the call after a jump", at_return(&s, 900, 10), 0);
    expect("the outermost", at_return(&s, 1000, 1), 0);
    expect("a return that no call has made", at_return(&s, 1000, 1), 1);
    return wrong;
}
