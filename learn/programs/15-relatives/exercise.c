// Exercise: FlsSetValue's and FlsFree's contract, in small. Freeing an index ends each of its values
// once, and an index that is allocated anew must not find the values of its predecessor: `fls_get`
// returns 0 then. `fls_set` of a free index returns 0, else 1. There are 4 indexes and 3 fibers.
typedef void (*callback)(void *);
static void *values[3][4];
static callback callbacks[4];
static int used[4];

int fls_alloc(callback f) {
    for (int i = 0; i < 4; i++)
        if (!used[i]) { used[i] = 1; callbacks[i] = f; return i; }
    return -1;
}
int fls_set(int fiber, int i, void *value) { values[fiber][i] = value; return 1; }
void *fls_get(int fiber, int i) { return values[fiber][i]; }
void fls_free(int i) { used[i] = 0; } // yours
