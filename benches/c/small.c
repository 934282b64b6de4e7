/* The smallest useful program: a value and a handler of the main thread's. Its size is measured. */
#include <exeunt.h>
#include <stdio.h>

static const char key;

static void say(void *text) { printf("%s, %s\n", (const char *)text, (const char *)exeunt_get(&key)); }

int main(void) {
    static char value[] = "value";
    static char end[] = "end";
    if (exeunt_set(&key, value, NULL)) return 1;
    return exeunt_at_exit(say, end) != 0;
}
