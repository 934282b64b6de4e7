// Exceptions that are thrown through a thread's frames, caught there or carried to the joiner, and a
// thread that is cancelled while objects with destructors are on its stack.
#include <cstdio>
#include <future>
#include <pthread.h>
#include <stdexcept>
#include <thread>
#include <unistd.h>

struct Says {
    ~Says() { puts("destroyed"); }
};

static int deep(int depth) {
    Says says;
    if (!depth) throw std::runtime_error("from below");
    return deep(depth - 1) + 1;
}

static void *waits(void *ready) {
    Says says;
    if (write(*static_cast<int *>(ready), "", 1) != 1) return nullptr;
    for (;;) pause();
}

int main() {
    std::thread([] {
        try {
            deep(2);
        } catch (const std::exception &error) {
            puts(error.what());
        }
    }).join();
    auto carried = std::async(std::launch::async, deep, 1);
    try {
        carried.get();
    } catch (const std::exception &error) {
        printf("carried %s\n", error.what());
    }
    int ends[2];
    char byte;
    pthread_t thread;
    if (pipe(ends) || pthread_create(&thread, nullptr, waits, &ends[1]) || read(ends[0], &byte, 1) != 1) return 1;
    pthread_cancel(thread);
    pthread_join(thread, nullptr);
    // A thread ends the process.
    std::thread([] { exit(7); }).join();
}
