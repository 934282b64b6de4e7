#include <pthread.h>
#include <string.h>

static void *parse(void *word) { char line[300000]; memset(line, 1, sizeof line); return word + line[9] - 1; }
static void *tick(void *word) { return word; }

int main(void) {
    pthread_attr_t large;
    pthread_attr_init(&large);
    pthread_attr_setstacksize(&large, 64 << 20);     /* somebody once needed it */
    pthread_t threads[4];
    for (int each = 0; each < 4; each++) pthread_create(&threads[each], &large, each % 2 ? tick : parse, NULL);
    for (int each = 0; each < 4; each++) pthread_join(threads[each], NULL);
    return 0;
}
