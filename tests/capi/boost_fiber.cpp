// Fibers of Boost.Fiber that threads share: storage moves with the fiber.
#include "check.h"

#include <boost/fiber/algo/shared_work.hpp>
#include <boost/fiber/all.hpp>
#include <exeunt.hpp>

#include <atomic>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace fibers = boost::fibers;

namespace {

std::atomic<int> alive{0};

struct counted {
    int number = 0;
    counted() { ++alive; }
    ~counted() { --alive; }
};

exeunt::stack_local<counted> value;

// The running thread. Compilers assume that std::this_thread::get_id() "never changes" and keep its
// result across a fiber's switch. Storage by thread has exactly that bug on fibers.
__attribute__((noinline)) std::thread::id thread_now() {
    asm volatile("" ::: "memory");
    return std::this_thread::get_id();
}

// Threads that run any fiber that is ready, until this is destroyed.
class pool {
public:
    explicit pool(int count) {
        for (int number = 0; number < count; ++number) {
            threads_.emplace_back([this] {
                // Without suspension: a sleeping thread is not woken when another one makes a fiber
                // ready.
                fibers::use_scheduling_algorithm<fibers::algo::shared_work>();
                std::unique_lock<fibers::mutex> lock(mutex_);
                over_changed_.wait(lock, [this] { return over_; });
            });
        }
    }
    ~pool() {
        {
            std::unique_lock<fibers::mutex> lock(mutex_);
            over_ = true;
        }
        over_changed_.notify_all();
        for (auto &thread : threads_) {
            thread.join();
        }
    }

private:
    fibers::mutex mutex_;
    fibers::condition_variable over_changed_;
    bool over_ = false;
    std::vector<std::thread> threads_;
};

// Starts a fiber here, and has another thread finish it. This thread cannot, because it waits as a
// thread.
template <class F> void starts_here_and_ends_on_another_thread(F wrap) {
    auto here = thread_now(), there = here;
    std::promise<void> over;
    auto body = [&] {
        value->number = 11;
        exeunt::at_exit([&] {
            CHECK(value->number == 11);
            there = thread_now();
        });
        auto id = exeunt::id();
        while (thread_now() == here) {
            boost::this_fiber::yield(); // to the main fiber, which then waits as a thread
        }
        CHECK(value->number == 11 && exeunt::id() == id);
    };
    fibers::fiber fiber(fibers::launch::dispatch, wrap(body, over));
    over.get_future().wait();
    CHECK(alive == 0 && there != here);
    fiber.join();
}

void storage_in_entered_follows_a_fiber_to_the_thread_that_takes_it_over() {
    starts_here_and_ends_on_another_thread([](auto &body, std::promise<void> &over) {
        return [&body, &over] {
            exeunt::enter(body);
            over.set_value();
        };
    });
}

void storage_in_a_scope_follows_a_fiber_to_the_thread_that_takes_it_over() {
    starts_here_and_ends_on_another_thread([](auto &body, std::promise<void> &over) {
        return [&body, &over] {
            {
                exeunt::scope scope;
                body();
            }
            over.set_value();
        };
    });
}

void many_fibers_on_shared_threads_never_see_each_others_values() {
    std::vector<fibers::fiber> running;
    std::atomic<int> handled{0};
    for (int number = 1; number <= 500; ++number) {
        running.emplace_back(exeunt::entered([number, &handled] {
            exeunt::at_exit([&handled] { ++handled; });
            CHECK(value.try_get() == nullptr);
            value->number = number;
            auto id = exeunt::id();
            for (int time = 0; time < 20; ++time) {
                boost::this_fiber::yield();
                CHECK(value->number == number && exeunt::id() == id);
            }
        }));
    }
    for (auto &fiber : running) {
        fiber.join();
    }
    CHECK(alive == 0 && handled == 500);
}

} // namespace

int main() {
    pool threads(2);
    fibers::use_scheduling_algorithm<fibers::algo::shared_work>();
    RUN(storage_in_entered_follows_a_fiber_to_the_thread_that_takes_it_over);
    RUN(storage_in_a_scope_follows_a_fiber_to_the_thread_that_takes_it_over);
    RUN(many_fibers_on_shared_threads_never_see_each_others_values);
}
