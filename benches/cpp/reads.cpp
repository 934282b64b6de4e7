// One read of fiber-local storage beside its peers, in one run: exeunt_get, exeunt_slot_get,
// exeunt::stack_local, pthread_getspecific, thread_local, and boost::fibers::fiber_specific_ptr.
// All run on a fiber of Boost.Fiber, as the last one works only there; all but the last one also
// run on a plain thread.
//
// Each figure is the median of many rounds, in turns, so that a busy machine disturbs all alike. A
// line per read has nanoseconds, the 10th and 90th percentile of the rounds, and the ratio to
// pthread_getspecific.
#include <boost/fiber/all.hpp>
#include <exeunt.hpp>
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

constexpr int reads = 20000;

struct contestant {
    const char *name;
    long (*round)(); // `reads` reads
    std::vector<double> ns;
};

const char key = 0;
std::uint32_t slot;
pthread_key_t pthread_key;
boost::fibers::fiber_specific_ptr<long> *boost_pointer;
exeunt::stack_local<long> local;
thread_local long by_thread = 1;

// The compiler must assume that this changes memory, so it repeats each read.
inline void keep(long &sum) { asm volatile("" : "+r"(sum) : : "memory"); }

template <class Read> long round_of(Read read) {
    long sum = 0;
    for (int count = 0; count < reads; ++count) {
        sum += read();
        keep(sum);
    }
    return sum;
}

long read_keyed() {
    return round_of([] { return *static_cast<long *>(exeunt_get(&key)); });
}
long read_slot() {
    return round_of([] {
        void *value;
        exeunt_slot_get(slot, &value);
        return *static_cast<long *>(value);
    });
}
long read_local() {
    return round_of([] { return *local; });
}
long read_pthread() {
    return round_of([] { return *static_cast<long *>(pthread_getspecific(pthread_key)); });
}
long read_boost() {
    return round_of([] { return **boost_pointer; });
}
long read_thread_local() {
    return round_of([] { return by_thread; });
}

void measure(const char *where, std::vector<contestant> contestants, int rounds) {
    static long value = 1;
    exeunt::detail::check(exeunt_set(&key, &value, nullptr));
    exeunt::detail::check(exeunt_slot_set(slot, &value));
    *local = 1;
    pthread_setspecific(pthread_key, &value);
    if (boost_pointer) {
        boost_pointer->reset(new long(1));
    }
    for (int round = 0; round < rounds + 10; ++round) {
        for (auto &contestant : contestants) {
            auto start = std::chrono::steady_clock::now();
            if (contestant.round() != reads) {
                std::fprintf(stderr, "%s did not read what was stored\n", contestant.name);
                std::exit(1);
            }
            std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
            if (round >= 10) {
                contestant.ns.push_back(took.count() / reads);
            }
        }
    }
    auto at = [](const contestant &contestant, double part) {
        return contestant.ns[static_cast<std::size_t>(part * static_cast<double>(contestant.ns.size() - 1))];
    };
    double unit = 0;
    for (auto &contestant : contestants) {
        std::sort(contestant.ns.begin(), contestant.ns.end());
        if (contestant.round == read_pthread) {
            unit = at(contestant, 0.5);
        }
    }
    std::printf("%-36s %8s %8s %8s   %s\n", where, "ns", "p10", "p90", "x pthread_getspecific");
    for (auto &contestant : contestants) {
        std::printf("  %-34s %8.2f %8.2f %8.2f   %.2f\n", contestant.name, at(contestant, 0.5), at(contestant, 0.1),
                    at(contestant, 0.9), at(contestant, 0.5) / unit);
    }
}

} // namespace

int main(int argc, char **argv) {
    int rounds = argc > 1 ? std::atoi(argv[1]) : 300;
    exeunt::detail::check(exeunt_slot_alloc(&slot, nullptr));
    pthread_key_create(&pthread_key, nullptr);
    std::vector<contestant> ours = {{"pthread_getspecific", read_pthread, {}},
                                    {"exeunt_slot_get", read_slot, {}},
                                    {"exeunt_get", read_keyed, {}},
                                    {"exeunt::stack_local", read_local, {}},
                                    {"thread_local (wrong on fibers)", read_thread_local, {}}};
    auto all = ours;
    all.push_back({"boost::fibers::fiber_specific_ptr", read_boost, {}});

    std::thread([&] { measure("on a thread", ours, rounds); }).join();
    boost::fibers::fiber_specific_ptr<long> pointer;
    boost_pointer = &pointer;
    boost::fibers::fiber(std::allocator_arg, boost::fibers::fixedsize_stack(256 * 1024), exeunt::entered([&] {
                             measure("on a fiber", all, rounds);
                         })).join();
    return 0;
}
