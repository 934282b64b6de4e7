// A fiber of Boost.Context that moves to another thread, and one that is dropped half-way.
//
//   c++ -std=c++17 fibers.cpp $(pkg-config --cflags --libs exeunt) -lboost_context -pthread && ./a.out
#include <boost/context/continuation.hpp>
#include <exeunt.hpp>

#include <cstdio>
#include <string>
#include <thread>

namespace ctx = boost::context;

struct request {
    std::string name = "?";
    ~request() { std::printf("  request %s is destroyed\n", name.c_str()); }
};

static exeunt::stack_local<request> current;   // a value for each stack
static thread_local std::string by_thread = "?"; // a value for each thread

// thread_local is read in a function of its own, so that here at least the compiler does not keep
// its address.
__attribute__((noinline)) static std::string &of_this_thread() {
    asm volatile("" ::: "memory");
    return by_thread;
}

static ctx::continuation serve(const char *name) {
    return ctx::callcc(exeunt::entered([name](ctx::continuation &&caller) {
        current->name = name;
        of_this_thread() = name;
        exeunt::at_exit([] { std::printf("  request %s is over\n", current->name.c_str()); });
        caller = caller.resume();
        std::printf("  after the switch: stack_local %s, thread_local %s\n", current->name.c_str(),
                    of_this_thread().c_str());
        return std::move(caller);
    }));
}

int main() {
    std::printf("resumed on another thread:\n");
    ctx::continuation first = serve("first");
    std::thread([&first] { first = first.resume(); }).join();

    std::printf("dropped while suspended:\n");
    { ctx::continuation second = serve("second"); }
    return current.try_get() == nullptr ? 0 : 1;
}
