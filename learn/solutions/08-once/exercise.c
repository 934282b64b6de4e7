struct handler { void (*run)(struct handler *); struct handler *next; };
static struct handler *handlers;

void at_exit(struct handler *h) { h->next = handlers; handlers = h; }
void drain(void) {
    while (handlers) {
        struct handler *h = handlers;
        handlers = h->next; // first: from here on no one finds it
        h->run(h);
    }
}
int stop(struct handler *h) {
    for (struct handler **p = &handlers; *p; p = &(*p)->next)
        if (*p == h) { *p = h->next; return 1; }
    return 0;
}
