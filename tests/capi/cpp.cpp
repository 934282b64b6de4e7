// exeunt.hpp on threads without any preparation.
#include "check.h"

#include <exeunt.hpp>
#include <pthread.h>

#include <atomic>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

std::atomic<int> alive{0};

struct counted {
    int number = 7;
    explicit counted(int number) : number(number) { ++alive; }
    counted() { ++alive; }
    counted(const counted &) = delete;
    ~counted() { --alive; }
};

template <class F> void on_a_thread(F f) { std::thread(f).join(); }

exeunt::stack_local<counted> by_default;
exeunt::stack_local<counted> by_function{[] { return counted(9); }};
static_assert(std::is_trivially_destructible_v<exeunt::stack_local<counted>>, "good to the very end of the program");

void each_stack_has_its_own_value_and_destroys_it() {
    on_a_thread([] {
        CHECK(by_default.try_get() == nullptr && alive == 0);
        CHECK(by_default->number == 7 && by_function->number == 9 && alive == 2);
        by_default->number = 1;
        on_a_thread([] { CHECK(by_default->number == 7 && alive == 3); });
        CHECK(by_default->number == 1 && alive == 2);
        CHECK(by_default.del() && !by_default.del());
        CHECK(by_default.try_get() == nullptr && alive == 1);
    });
    CHECK(alive == 0);
}

void handlers_own_what_they_capture() {
    std::vector<int> log;
    on_a_thread([&log] {
        auto first = std::make_unique<counted>(1);
        exeunt::at_exit([&log, first = std::move(first)] { log.push_back(first->number); });
        exeunt::at_exit([&log] { log.push_back(by_default->number); });
    });
    CHECK((log == std::vector<int>{7, 1}) && alive == 0);
    on_a_thread([&log] {
        exeunt::at_exit([&log, lost = std::make_unique<counted>(1)] { log.push_back(lost->number); });
        exeunt::unload();
        CHECK(exeunt::id() != 0);
    });
    CHECK(log.size() == 2 && alive == 0); // the handler is not called, and what it captured is freed
}

void handlers_are_taken_back() {
    std::vector<int> log;
    on_a_thread([&log] {
        exeunt::registration none;
        CHECK(!none.stop());
        exeunt::registration first = exeunt::at_exit([&log, held = std::make_unique<counted>(1)] { log.push_back(1); });
        CHECK(first.stop() && alive == 0 && !first.stop());
        exeunt::registration itself;
        itself = exeunt::at_exit([&log, &itself] { log.push_back(itself.stop() ? 2 : 3); });
        std::thread([itself] { CHECK(!itself.stop()); }).join();
        exeunt::at_exit([] {}).stop();
        static exeunt::registration late;
        late = exeunt::at_exit([&log] { log.push_back(4); });
        itself.stop();
        exeunt::at_exit([&log] { log.push_back(late.stop() ? 5 : 6); });
    });
    CHECK((log == std::vector<int>{5}));
}

void slots_come_and_go() {
    on_a_thread([] {
        {
            exeunt::slot<counted> slot;
            CHECK(!slot && slot.get() == nullptr);
            CHECK(slot.emplace(3).number == 3 && alive == 1);
            CHECK(slot.emplace(4).number == 4 && alive == 1);
            on_a_thread([&slot] {
                CHECK(!slot);
                slot.emplace(5);
                CHECK(alive == 2);
            });
            CHECK(alive == 1 && slot.get()->number == 4);
            exeunt::slot<counted> moved = std::move(slot);
            CHECK(moved.get()->number == 4);
            CHECK(moved.take()->number == 4);
            CHECK(!moved && moved.take() == nullptr && alive == 0);
            moved.emplace(6);
        }
        CHECK(alive == 0);
    });
}

void set_replaces_the_value() {
    static exeunt::stack_local<std::string> name{[] { return std::string("nobody"); }};
    on_a_thread([] {
        CHECK(name.set("first") == "first" && *name == "first");
        name.set("second");
        CHECK(name->length() == 6);
        exeunt::slot<std::string> slot;
        CHECK(slot.set("first") == "first" && slot.set("second") == "second" && *slot.get() == "second");
    });
    on_a_thread([] { CHECK(*name == "nobody"); });
}

void enter_passes_results_of_all_kinds() {
    on_a_thread([] {
        int target = 1;
        CHECK(exeunt::enter([] { return 5; }) == 5);
        exeunt::enter([&] { target = 2; });
        CHECK(&exeunt::enter([&]() -> int & { return target; }) == &target && target == 2);
        CHECK(*exeunt::enter([] { return std::make_unique<int>(3); }) == 3);
        CHECK(exeunt::entered([](int a, int b) { return a - b; })(9, 4) == 5);
        CHECK(exeunt::enter([] { return by_default->number; }) == 7 && alive == 0);
    });
}

void enter_on_takes_the_memory_that_it_is_told_for_the_stacks() {
    on_a_thread([] {
        pthread_attr_t attributes;
        void *low = nullptr;
        size_t size = 0;
        CHECK(pthread_getattr_np(pthread_self(), &attributes) == 0);
        CHECK(pthread_attr_getstack(&attributes, &low, &size) == 0);
        pthread_attr_destroy(&attributes);
        char *high = static_cast<char *>(low) + size;
        CHECK(exeunt::enter_on(low, high, [] { return by_default->number; }) == 7 && alive == 0);
        try {
            exeunt::enter_on(low, low, [] { CHECK(false); });
            CHECK(false);
        } catch (const exeunt::error &error) {
            CHECK(error.code() == EXEUNT_ENOT_ON_THAT_STACK);
        }
    });
}

void exceptions_pass_through_enter_and_drain_it() {
    on_a_thread([] {
        bool handled = false;
        std::string caught;
        try {
            exeunt::enter([&] {
                exeunt::at_exit([&] { handled = true; });
                by_default->number = 2;
                throw std::string("thrown");
            });
        } catch (const std::string &text) {
            caught = text;
        }
        CHECK(caught == "thrown" && handled && alive == 0);
        CHECK(by_default.try_get() == nullptr);
    });
}

// A frame that `unwind_a_scope` lies further in by.
__attribute__((noinline)) void further_in(std::size_t bytes, void (*run)()) {
    volatile char *room = static_cast<volatile char *>(__builtin_alloca(bytes));
    room[0] = 1;
    run();
    room[0] = 2;
}

void unwind_a_scope() {
    bool handled = false;
    try {
        exeunt::enter([&] {
            by_default->number = 2;
            exeunt::at_exit([&] {
                exeunt::at_exit([] {});
                handled = by_default.try_get() != nullptr && by_default->number == 2;
            });
            throw 1;
        });
    } catch (int) {
    }
    CHECK(handled && alive == 0);
}

// No stack owns the 64 bytes around its base, and the drain may begin right there.
void handlers_of_an_unwound_scope_find_its_values_wherever_the_scope_lies() {
    on_a_thread([] {
        for (std::size_t bytes = 16; bytes <= 256; bytes += 16) {
            further_in(bytes, unwind_a_scope);
        }
    });
}

void an_error_says_why() {
    on_a_thread([] {
        exeunt::id();
        try {
            exeunt::enter([] { CHECK(false); });
            CHECK(false);
        } catch (const exeunt::error &error) {
            CHECK(error.code() == EXEUNT_EALREADY_ARMED);
            CHECK(std::string(error.what()).find("armed already") != std::string::npos);
        }
    });
}

int code_of_id = 0;

void ask_for_id(int) {
    try {
        exeunt::id();
    } catch (const exeunt::error &error) {
        code_of_id = error.code();
    }
}

void id_throws_the_code_of_what_is_wrong() {
    std::thread([] {
        std::vector<char> memory(1 << 16);
        stack_t stack{}, none{};
        stack.ss_sp = memory.data();
        stack.ss_size = memory.size();
        none.ss_flags = SS_DISABLE;
        struct sigaction action {}, before {};
        action.sa_handler = ask_for_id;
        action.sa_flags = SA_ONSTACK;
        CHECK(sigaltstack(&stack, nullptr) == 0 && sigaction(SIGUSR1, &action, &before) == 0);
        raise(SIGUSR1);
        CHECK(sigaction(SIGUSR1, &before, nullptr) == 0 && sigaltstack(&none, nullptr) == 0);
    }).join();
    CHECK(code_of_id == EXEUNT_ESIGNAL_STACK);
}

void a_scope_drains_on_return_and_on_unwinding() {
    on_a_thread([] {
        {
            exeunt::scope scope;
            CHECK(by_default->number == 7 && alive == 1);
            CHECK(exeunt::id() == exeunt::id());
        }
        CHECK(alive == 0);
        try {
            exeunt::scope scope;
            by_default->number = 3;
            throw 1;
        } catch (int) {
        }
        CHECK(alive == 0 && by_default.try_get() == nullptr);
    });
}

// Frames of all sizes between the scope and the use of storage, and inner ones that return to it.
__attribute__((noinline)) int deep(int depth) {
    volatile char frame[3000];
    frame[0] = static_cast<char>(depth);
    CHECK(by_default->number == 40);
    return depth == 0 ? frame[0] : deep(depth - 1) + frame[0] * 0;
}

void a_scope_is_found_from_any_depth() {
    on_a_thread([] {
        exeunt::scope scope;
        by_default->number = 40;
        CHECK(deep(0) == 0);
        CHECK(deep(200) == 0);
        CHECK(by_default->number == 40 && alive == 1);
    });
    CHECK(alive == 0);
}

void a_scope_that_is_no_automatic_variable_is_refused() {
    on_a_thread([] {
        struct holder {
            exeunt::scope scope;
        };
        try {
            auto held = std::make_unique<holder>();
            CHECK(false);
        } catch (const exeunt::error &error) {
            CHECK(error.code() == EXEUNT_EINVALID);
        }
    });
}

void a_handler_can_ask_how_its_stack_ends() {
    using exeunt::ending_kind;
    std::vector<ending_kind> log;
    CHECK(exeunt::ending() == ending_kind::none && !exeunt::returned_value());
    auto note = [&log] { exeunt::at_exit([&log] { log.push_back(exeunt::ending()); }); };
    on_a_thread(note);
    on_a_thread([&note] {
        exeunt::enter(note);
        try {
            exeunt::enter([&note] {
                note();
                throw 7;
            });
        } catch (int) {
        }
        exeunt::scope scope;
        note();
    });
    CHECK((log == std::vector<ending_kind>{ending_kind::returned, ending_kind::returned, ending_kind::unwound,
                                           ending_kind::scope}));
}

void the_armed_stacks_are_listed() {
    auto before = exeunt::stacks().size();
    on_a_thread([before] {
        auto id = exeunt::id();
        auto stacks = exeunt::stacks();
        CHECK(stacks.size() == before + 1);
        int found = 0;
        for (const exeunt_stack &stack : stacks)
            found += stack.id == id && stack.kind == EXEUNT_KIND_THREAD;
        CHECK(found == 1);
    });
    CHECK(exeunt::stacks().size() == before);
}

void the_ends_of_all_threads_are_reported() {
    static thread_local bool is_watched;
    std::atomic<int> ends{0};
    void *value = nullptr;
    exeunt::on_every_thread_end([&ends, &value, three = std::make_shared<int>(3)](const exeunt_stack_end &end) {
        if (!is_watched)
            return;
        ends += *three;
        value = end.value;
        CHECK(end.kind == EXEUNT_KIND_THREAD && end.ending == EXEUNT_ENDING_RETURNED);
    });
    try {
        exeunt::on_every_thread_end([](const exeunt_stack_end &) {});
        CHECK(false);
    } catch (const exeunt::error &error) {
        CHECK(error.code() == EXEUNT_EBUSY);
    }
    on_a_thread([] { is_watched = true; });
    CHECK(ends == 3 && value == nullptr);
    CHECK(exeunt::stop_every_end() && !exeunt::stop_every_end());
    on_a_thread([] { is_watched = true; });
    CHECK(ends == 3);
}

} // namespace

int main() {
    RUN(each_stack_has_its_own_value_and_destroys_it);
    RUN(handlers_own_what_they_capture);
    RUN(handlers_are_taken_back);
    RUN(slots_come_and_go);
    RUN(set_replaces_the_value);
    RUN(enter_passes_results_of_all_kinds);
    RUN(enter_on_takes_the_memory_that_it_is_told_for_the_stacks);
    RUN(exceptions_pass_through_enter_and_drain_it);
    RUN(handlers_of_an_unwound_scope_find_its_values_wherever_the_scope_lies);
    RUN(an_error_says_why);
    RUN(id_throws_the_code_of_what_is_wrong);
    RUN(a_scope_drains_on_return_and_on_unwinding);
    RUN(a_scope_is_found_from_any_depth);
    RUN(a_scope_that_is_no_automatic_variable_is_refused);
    RUN(a_handler_can_ask_how_its_stack_ends);
    RUN(the_armed_stacks_are_listed);
    RUN(the_ends_of_all_threads_are_reported);
}
