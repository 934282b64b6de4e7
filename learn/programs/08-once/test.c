#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include EXERCISE
static char order[64];
static struct handler a, b, c, d, e;
static int own, other, again;
static void ran(const char *name) {
    strcat(order, name);
    if (strlen(order) > 20) { printf("they run again and again: %s\n", order); exit(1); }
}
static void ra(struct handler *h) { (void)h; ran("a"); }
static void rb(struct handler *h) { (void)h; ran("b"); }
static void rc(struct handler *h) { ran("c"); own = stop(h); other = stop(&b); again = stop(&b); }
static void rd(struct handler *h) { (void)h; ran("d"); if (strlen(order) < 9) { e.run = ra; at_exit(&e); drain(); } }
int main(void) {
    a.run = ra, b.run = rb, c.run = rc, d.run = rd;
    at_exit(&a), at_exit(&b), at_exit(&c), at_exit(&d);
    drain(); // d registers one more and drains from inside
    drain(); // a second end
    if (strcmp(order, "daca")) { printf("they ran as %s, and not daca\n", order); return 1; }
    if (own || !other || again) {
        printf("stop: itself %d, another %d, the same again %d\n", own, other, again);
        return 1;
    }
    return 0;
}
