// Stacks of a C++ program: what unwinds on them, and what is destroyed when they end. The first
// argument selects the case.
#include "common.h"
#include <stdexcept>
#include <thread>

namespace {

life the_life;

// Reports its end.
struct Told {
    const char *what;
    explicit Told(const char *what) : what(what) {}
    ~Told() { say("%s destroyed", what); }
    void use() const { MUST(what != nullptr); }
};

thread_local Told before_arming("thread_local made before arming");
thread_local Told after_arming("thread_local made after arming");

__attribute__((noinline)) void arm_among_locals() {
    use_key("k");
    before_arming.use();
    arm(&the_life, "thread");
    after_arming.use();
}

__attribute__((noinline)) void throw_deep(int depth) {
    Told here(depth == 0 ? "innermost frame" : "frame");
    if (depth == 0)
        throw std::runtime_error("thrown");
    throw_deep(depth - 1);
}

// The outermost frame catches what all others let pass.
void catches_in_the_outermost_frame(bool armed) {
    try {
        if (armed)
            arm_among_locals();
        throw_deep(2);
        say("not reached");
    } catch (const std::runtime_error &error) {
        say("caught %s in the outermost frame", error.what());
    }
}

void catches_halfway(bool armed) {
    if (armed)
        arm_among_locals();
    for (int round = 0; round < 2; round++) {
        try {
            throw_deep(1);
        } catch (const std::exception &error) {
            say("caught %s, walk %s", error.what(), armed ? walk_from_here(&the_life.outermost) : "complete");
        }
    }
    try {
        try {
            throw 5;
        } catch (...) {
            throw; // again, from a handler
        }
    } catch (int number) {
        say("caught %d again", number);
    }
}

// Nothing catches: the message of std::terminate must not depend on whether the stack is armed.
void catches_nothing(bool armed) {
    if (armed)
        MUST(bridge_set(1, 1) == 0);
    throw std::runtime_error("thrown");
}

void exits_deep() {
    Told here("frame of pthread_exit");
    pthread_exit(reinterpret_cast<void *>(0x55));
}

void *exits(void *) {
    Told here("entry function's frame");
    arm_among_locals();
    exits_deep();
    return nullptr;
}

void waits_for_the_end() {
    Told here("frame of pause");
    for (;;)
        pause();
}

void *is_cancelled(void *) {
    Told here("entry function's frame");
    arm_among_locals();
    waits_for_the_end();
    return nullptr;
}

// Catches the forced unwinding, as C++ allows, and rethrows it, as C++ requires.
void *notices_the_end(void *) {
    arm_among_locals();
    try {
        exits_deep();
    } catch (...) {
        say("passing by");
        throw;
    }
    return nullptr;
}

// A Rust panic that passes C++ frames on its way to outer Rust frames.
void panics(void *) {
    Told here("C++ frame");
    bridge_panic();
}

void *panics_to_the_outermost_frame(void *) {
    arm_among_locals();
    say("caught: %d", bridge_catch(panics, nullptr));
    return nullptr;
}

void join(void *(*routine)(void *), bool cancel) {
    pthread_t thread;
    void *result;
    MUST(pthread_create(&thread, nullptr, routine, nullptr) == 0);
    if (cancel)
        MUST(pthread_cancel(thread) == 0);
    MUST(pthread_join(thread, &result) == 0);
    say(result == PTHREAD_CANCELED ? "cancelled" : "result %p", result);
}

bool is(const char *given, const char *name) { return strcmp(given, name) == 0; }

} // namespace

int main(int count, char **arguments) {
    MUST(count == 2);
    const char *name = arguments[1];
    if (is(name, "std::thread returns"))
        std::thread([] { arm_among_locals(); }).join();
    if (is(name, "exception to the outermost frame"))
        std::thread(catches_in_the_outermost_frame, true).join();
    if (is(name, "exception to the outermost frame, unarmed"))
        std::thread(catches_in_the_outermost_frame, false).join();
    if (is(name, "exceptions half-way"))
        std::thread(catches_halfway, true).join();
    if (is(name, "exceptions half-way, unarmed"))
        std::thread(catches_halfway, false).join();
    if (is(name, "uncaught"))
        std::thread(catches_nothing, true).join();
    if (is(name, "uncaught, unarmed"))
        std::thread(catches_nothing, false).join();
    if (is(name, "uncaught on main"))
        catches_nothing(true);
    if (is(name, "uncaught on main, unarmed"))
        catches_nothing(false);
    if (is(name, "pthread_exit"))
        join(exits, false);
    if (is(name, "pthread_exit seen"))
        join(notices_the_end, false);
    if (is(name, "pthread_cancel"))
        join(is_cancelled, true);
    if (is(name, "panic"))
        join(panics_to_the_outermost_frame, false);
    return 0;
}
