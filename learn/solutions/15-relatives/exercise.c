typedef void (*callback)(void *);
static void *values[3][4];
static callback callbacks[4];
static int used[4];

int fls_alloc(callback f) {
    for (int i = 0; i < 4; i++)
        if (!used[i]) { used[i] = 1; callbacks[i] = f; return i; }
    return -1;
}
int fls_set(int fiber, int i, void *value) {
    if (!used[i]) return 0;
    values[fiber][i] = value;
    return 1;
}
void *fls_get(int fiber, int i) { return used[i] ? values[fiber][i] : 0; }
void fls_free(int i) {
    if (!used[i]) return;
    for (int fiber = 0; fiber < 3; fiber++) {
        void *value = values[fiber][i];
        values[fiber][i] = 0; // first: the callback may free the index again
        if (value && callbacks[i]) callbacks[i](value);
    }
    used[i] = 0;
}
