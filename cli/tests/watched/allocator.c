/* An allocator that is locked while the process forks, until the program's own handler in the child
   has run. Prints the child's status. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
extern void *__libc_malloc(size_t), *__libc_realloc(void *, size_t);
void *malloc(size_t size) {
    pthread_mutex_lock(&lock);
    void *memory = __libc_malloc(size);
    pthread_mutex_unlock(&lock);
    return memory;
}
void *realloc(void *memory, size_t size) {
    pthread_mutex_lock(&lock);
    memory = __libc_realloc(memory, size);
    pthread_mutex_unlock(&lock);
    return memory;
}
static void before(void) { pthread_mutex_lock(&lock); }
static void after(void) { pthread_mutex_unlock(&lock); }

int main(void) {
    int status = 0;
    if (pthread_atfork(before, after, after)) abort();
    pid_t child = fork();
    if (!child) _exit(3);
    for (int tries = 0; tries < 1000 && !waitpid(child, &status, WNOHANG); tries++) usleep(10000);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 3) kill(child, SIGKILL);
    printf("%d\n", WEXITSTATUS(status));
    return 0;
}
