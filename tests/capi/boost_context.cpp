// Continuations of Boost.Context, which never return to code of the system: they run in
// exeunt::entered, or with a scope.
#include "check.h"

#include <boost/context/continuation.hpp>
#include <boost/context/fixedsize_stack.hpp>
#include <boost/context/preallocated.hpp>
#include <exeunt.hpp>

#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace ctx = boost::context;

namespace {

int alive = 0;

struct counted {
    int number = 0;
    counted() { ++alive; }
    ~counted() { --alive; }
};

exeunt::stack_local<counted> value;

void a_bare_continuation_is_refused_with_an_error_that_names_enter() {
    std::string text;
    ctx::continuation c = ctx::callcc([&](ctx::continuation &&caller) {
        try {
            value.get();
        } catch (const exeunt::error &error) {
            CHECK(error.code() == EXEUNT_EUNKNOWN_TRAMPOLINE);
            text = error.what();
        }
        return std::move(caller);
    });
    CHECK(!c && alive == 0);
    CHECK(text.find("enter") != std::string::npos);
}

// The body of most tests: stores, is suspended twice, and finds the stored values.
ctx::continuation stores(ctx::continuation &&caller, int number, bool &handled) {
    CHECK(value.try_get() == nullptr);
    value->number = number;
    exeunt::at_exit([&handled, number] {
        CHECK(value->number == number);
        handled = true;
    });
    auto id = exeunt::id();
    for (int time = 0; time < 2; ++time) {
        caller = caller.resume();
        CHECK(value->number == number && exeunt::id() == id);
    }
    return std::move(caller);
}

// The two ways to give a continuation storage.
struct by_entered {
    static ctx::continuation start(int number, bool &handled) {
        return ctx::callcc(exeunt::entered(
            [&handled, number](ctx::continuation &&caller) { return stores(std::move(caller), number, handled); }));
    }
};
struct by_scope {
    static ctx::continuation start(int number, bool &handled) {
        return ctx::callcc([&handled, number](ctx::continuation &&caller) {
            exeunt::scope scope;
            return stores(std::move(caller), number, handled);
        });
    }
};

template <class Way> void drained_on_return() {
    bool one = false, two = false;
    ctx::continuation first = Way::start(1, one), second = Way::start(2, two);
    CHECK(alive == 2 && value.try_get() == nullptr);
    first = first.resume();
    second = second.resume();
    first = first.resume();
    CHECK(!first && one && alive == 1);
    second = second.resume();
    CHECK(!second && two && alive == 0);
}

template <class Way> void follows_to_other_threads() {
    bool handled = false;
    ctx::continuation c = Way::start(3, handled);
    for (int time = 0; time < 2; ++time) {
        std::thread([&c] { c = c.resume(); }).join();
    }
    CHECK(!c && handled && alive == 0);
}

template <class Way> void forced_unwinding() {
    bool handled = false;
    {
        ctx::continuation c = Way::start(4, handled);
        c = c.resume();
        CHECK(c && alive == 1 && !handled);
    } // the library unwinds the suspended continuation
    CHECK(handled && alive == 0);
}

template <class Way> void many_dropped() {
    for (int count = 0; count < 5000; ++count) {
        bool handled = false;
        Way::start(count, handled);
        CHECK(handled && alive == 0);
    }
}

void a_continuation_in_entered_is_drained_when_it_returns() { drained_on_return<by_entered>(); }
void a_continuation_with_a_scope_is_drained_when_it_returns() { drained_on_return<by_scope>(); }
void storage_in_entered_follows_to_other_threads() { follows_to_other_threads<by_entered>(); }
void storage_in_a_scope_follows_to_other_threads() { follows_to_other_threads<by_scope>(); }
void forced_unwinding_drains_a_suspended_continuation_in_entered() { forced_unwinding<by_entered>(); }
void forced_unwinding_drains_a_suspended_continuation_with_a_scope() { forced_unwinding<by_scope>(); }
void five_thousand_dropped_in_entered_leave_nothing() { many_dropped<by_entered>(); }
void five_thousand_dropped_with_a_scope_leave_nothing() { many_dropped<by_scope>(); }

void an_exception_passes_through_entered_and_is_caught_on_the_continuation() {
    std::string caught;
    ctx::continuation c = ctx::callcc([&](ctx::continuation &&caller) {
        try {
            exeunt::enter([] {
                value->number = 5;
                throw std::string("thrown");
            });
        } catch (const std::string &text) {
            CHECK(alive == 0);
            caught = text;
        }
        return std::move(caller);
    });
    CHECK(!c && caught == "thrown");
}

void an_abandoned_stack_is_drained_by_discard() {
    bool handled = false;
    ctx::fixedsize_stack allocator(64 * 1024);
    ctx::stack_context memory = allocator.allocate();
    alignas(ctx::continuation) unsigned char place[sizeof(ctx::continuation)];
    // Its destructor is never called, as where a runtime frees its stacks without unwinding.
    new (place) ctx::continuation(ctx::callcc(
        std::allocator_arg, ctx::preallocated(memory.sp, memory.size, memory), allocator,
        exeunt::entered([&handled](ctx::continuation &&caller) {
            value->number = 6;
            // It will run on the stack that discards this one.
            exeunt::at_exit([&handled] { handled = value.try_get() == nullptr; });
            return caller.resume();
        })));
    CHECK(alive == 1);
    exeunt::discard(static_cast<char *>(memory.sp) - memory.size, memory.sp);
    CHECK(alive == 0 && handled);
    allocator.deallocate(memory);
}

} // namespace

int main() {
    RUN(a_bare_continuation_is_refused_with_an_error_that_names_enter);
    RUN(a_continuation_in_entered_is_drained_when_it_returns);
    RUN(a_continuation_with_a_scope_is_drained_when_it_returns);
    RUN(storage_in_entered_follows_to_other_threads);
    RUN(storage_in_a_scope_follows_to_other_threads);
    RUN(forced_unwinding_drains_a_suspended_continuation_in_entered);
    RUN(forced_unwinding_drains_a_suspended_continuation_with_a_scope);
    RUN(five_thousand_dropped_in_entered_leave_nothing);
    RUN(five_thousand_dropped_with_a_scope_leave_nothing);
    RUN(an_exception_passes_through_entered_and_is_caught_on_the_continuation);
    RUN(an_abandoned_stack_is_drained_by_discard);
}
