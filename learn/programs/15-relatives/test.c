#include <stdio.h>
#include EXERCISE
static int ended, wrong;
static void end(void *value) { ended += *(int *)value; }
static void expect(const char *what, long got, long want) {
    if (got == want) return;
    printf("%s: %ld, and not %ld\n", what, got, want);
    wrong = 1;
}
int main(void) {
    int one = 1, ten = 10;
    int i = fls_alloc(end), j = fls_alloc(0);
    expect("two indexes differ", i != j, 1);
    fls_set(0, i, &one), fls_set(2, i, &ten), fls_set(1, j, &one);
    expect("a value", *(int *)fls_get(2, i), 10);
    expect("no value", fls_get(1, i) != 0, 0);
    fls_free(i), fls_free(j);
    expect("values ended", ended, 11);
    fls_free(i);
    expect("and not again", ended, 11);
    expect("set of a free index", fls_set(0, i, &one), 0);
    int k = fls_alloc(end);
    expect("a new index has", fls_get(0, k) != 0 || fls_get(2, k) != 0, 0);
    return wrong;
}
