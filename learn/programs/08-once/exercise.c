// Exercise: a registration that can be taken back. `stop` returns 1 if the handler will never run
// because of this call, and 0 if it has run, is running, or was stopped. A handler may stop others, and
// itself. The drain must run those that are left, last registered first.
struct handler { void (*run)(struct handler *); struct handler *next; };
static struct handler *handlers;

void at_exit(struct handler *h) { h->next = handlers; handlers = h; }
void drain(void) { for (struct handler *h = handlers; h; h = h->next) h->run(h); } // yours
int stop(struct handler *h) { (void)h; return 0; }                                 // yours
