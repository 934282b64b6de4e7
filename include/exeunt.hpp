// exeunt for C++17: storage and exit handlers for any stack (thread, main thread or fiber),
// although exeunt did not start it.
//
// Header only, on top of exeunt.h. Nothing here reads the stack pointer or a thread-local: every
// function calls the C functions. So the compiler cannot keep such a value in a register while a
// fiber moves to another thread.
//
//   exeunt::at_exit(f)        calls f when the running stack ends; the result's stop() takes f back
//   exeunt::stack_local<T>    a static with a value for each stack
//   exeunt::slot<T>           the same as an object, made and destroyed at run time
//   exeunt::enter(f)          runs f as the entry function of a fiber; passes on its result and its
//                             exceptions
//   exeunt::enter_on          the same where you know the stack's memory; it costs less
//   exeunt::entered(f)        a callable that runs f in enter, for Boost.Context and Boost.Fiber
//   exeunt::scope             the same as an object in the fiber's function
//   exeunt::on_every_thread_end(f), exeunt::on_every_end(f)
//                             call f at the end of every thread (and of main), for tools
//   exeunt::discard, exeunt::register_trampoline, exeunt::id, exeunt::reset, exeunt::unload
//
// Functions throw exeunt::error where the C functions return a code. Handlers and destructors must
// not throw: nothing could catch the exception there, so std::terminate is called.

#ifndef EXEUNT_HPP
#define EXEUNT_HPP

#if __cplusplus < 201703L
#error "exeunt.hpp needs C++17: compile with -std=c++17 or newer, or use exeunt.h"
#elif !defined(__cpp_exceptions)
#error "exeunt.hpp reports failures by exceptions: compile with -fexceptions, or use exeunt.h"
#endif

#include "exeunt.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace exeunt {

/// Why a call failed.
class error : public std::runtime_error {
public:
    error(int code, const std::string &text) : std::runtime_error(text), code_(code) {}

    /// One of the codes in exeunt.h.
    int code() const noexcept { return code_; }

private:
    int code_;
};

namespace detail {

inline std::string last_error(int code) {
    std::string text(exeunt_last_error(nullptr, 0), '\0');
    if (text.empty()) {
        return exeunt_strerror(code);
    }
    exeunt_last_error(&text[0], text.size() + 1);
    return text;
}

inline void check(int code) {
    if (code != EXEUNT_OK) {
        throw error(code, last_error(code));
    }
}

template <class T> void destroy(void *value) noexcept { delete static_cast<T *>(value); }

/// Holds the result of a function until `take` returns it.
template <class R> class returned {
public:
    template <class F> void of(F &&f) { value_.emplace(std::invoke(std::forward<F>(f))); }
    R take() { return std::move(*value_); }

private:
    std::optional<R> value_;
};

template <class R> class returned<R &> {
public:
    template <class F> void of(F &&f) { value_ = std::addressof(std::invoke(std::forward<F>(f))); }
    R &take() { return *value_; }

private:
    R *value_ = nullptr;
};

template <> class returned<void> {
public:
    template <class F> void of(F &&f) { std::invoke(std::forward<F>(f)); }
    void take() {}
};

} // namespace detail

/// A handler that `at_exit` has registered. You may ignore it: then the handler stays.
class registration {
public:
    /// No handler.
    registration() noexcept = default;

    /// Takes the handler back. True if this call has done so: then the handler is destroyed here
    /// and never called. False, and nothing has changed, if it is running or has run (so also
    /// within the handler), if it was taken back before or `unload` has removed it, and on another
    /// stack than the handler's. A handler may stop another one that has not begun.
    bool stop() const noexcept { return number_ != 0 && exeunt_stop(number_) == EXEUNT_OK; }

private:
    explicit registration(std::uint64_t number) noexcept : number_(number) {}
    template <class F> friend registration at_exit(F &&handler);

    std::uint64_t number_ = 0;
};

/// Calls `handler` when the running stack ends. Handlers run on that stack, last in first out, and
/// all its values are still there. Use the result to take the handler back, as code must that runs
/// many times on a stack which goes on.
template <class F> registration at_exit(F &&handler) {
    using handler_type = std::decay_t<F>;
    auto owned = std::make_unique<handler_type>(std::forward<F>(handler));
    exeunt_fn call = [](void *arg) noexcept {
        std::unique_ptr<handler_type> called(static_cast<handler_type *>(arg));
        std::invoke(std::move(*called));
    };
    std::uint64_t number = 0;
    detail::check(exeunt_at_exit_stoppable(call, detail::destroy<handler_type>, owned.get(), &number));
    owned.release(); // the stack owns it now
    return registration(number);
}

/// The identity of the running stack: unique as long as the process runs, never zero.
inline std::uint64_t id() {
    std::uint64_t id = exeunt_id();
    if (id == 0) {
        detail::check(exeunt_last_code());
    }
    return id;
}

/// How a stack ends. Later versions may have more of them.
enum class ending_kind : int {
    none = EXEUNT_ENDING_NONE, ///< The code that asks belongs to no end of a stack.
    unknown = EXEUNT_ENDING_UNKNOWN,
    returned = EXEUNT_ENDING_RETURNED,
    unwound = EXEUNT_ENDING_UNWOUND,
    exited = EXEUNT_ENDING_EXITED,
    cancelled = EXEUNT_ENDING_CANCELLED,
    process_exit = EXEUNT_ENDING_PROCESS_EXIT,
    abandoned = EXEUNT_ENDING_ABANDONED,
    discarded = EXEUNT_ENDING_DISCARDED,
    scope = EXEUNT_ENDING_SCOPE, ///< A `scope` was destroyed: by a return or by an exception.
};

/// How the running stack ends, for its handlers and its values' destructors.
inline ending_kind ending() noexcept { return static_cast<ending_kind>(exeunt_ending()); }

/// What the function of the running stack has returned, or what `pthread_exit` was given: see
/// exeunt_returned_value.
inline std::optional<void *> returned_value() {
    void *value = nullptr;
    int code = exeunt_returned_value(&value);
    if (code == EXEUNT_EABSENT) {
        return std::nullopt;
    }
    detail::check(code);
    return value;
}

/// The armed stacks of the process, in no order: for leak detectors. It is a snapshot. Each stack
/// may have ended by now.
inline std::vector<exeunt_stack> stacks() {
    std::vector<exeunt_stack> all;
    // Others may be armed meanwhile.
    for (std::size_t count = exeunt_stacks(nullptr, 0); count > all.size();) {
        all.resize(count + count / 8);
        count = exeunt_stacks(all.data(), all.size());
        if (count <= all.size()) {
            all.resize(count);
        }
    }
    return all;
}

namespace detail {

template <class F> void on_every(int (*call)(exeunt_end_fn, void *), F &&function) {
    using function_type = std::decay_t<F>;
    auto owned = std::make_unique<const function_type>(std::forward<F>(function));
    exeunt_end_fn each = [](const exeunt_stack_end *end, void *arg) noexcept {
        std::invoke(*static_cast<const function_type *>(arg), *end);
    };
    check(call(each, const_cast<function_type *>(owned.get())));
    static_cast<void>(owned.release()); // it is never destroyed: a thread may be running it
}

} // namespace detail

/// Has `function` called with a `const exeunt_stack_end &` at the end of every thread, armed or not,
/// until `stop_every_end`: see exeunt_on_every_thread_end. Several threads may call it at once. It
/// is copied or moved, and never destroyed. It must not throw.
template <class F> void on_every_thread_end(F &&function) {
    detail::on_every(exeunt_on_every_thread_end, std::forward<F>(function));
}

/// The same for `main` as well. This needs code redirect: see exeunt_on_every_end.
template <class F> void on_every_end(F &&function) {
    detail::on_every(exeunt_on_every_end, std::forward<F>(function));
}

/// Takes back the function of `on_every_thread_end` or `on_every_end`. Returns whether there was one.
/// Calls that have begun on other threads go on.
inline bool stop_every_end() noexcept { return exeunt_stop_every_end() == EXEUNT_OK; }

/// Destroys all values of the running stack, and keeps its handlers.
inline void reset() { detail::check(exeunt_reset()); }

/// Destroys all values of the running stack, removes its handlers without calling them, and disarms
/// the stack.
inline void unload() { detail::check(exeunt_unload()); }

/// A variable with a value for each stack. The value is made at its first use on the stack, and
/// destroyed when the stack ends.
///
/// The variable must be a static: `static exeunt::stack_local<T> name;`. With a function that makes
/// the first value it is `static exeunt::stack_local<T> name{[] { return T(...); }};`.
///
/// References to the value are valid until the stack ends or its values are reset. T's constructor
/// and destructor must not use the same variable.
///
/// There is no storage before `main`, nor in code that runs after a stack's handlers (destructors
/// of statics and of `thread_local`s). `get` throws there, and `try_get` returns null.
template <class T> class stack_local {
public:
    constexpr stack_local() noexcept = default;

    /// `maker` returns the first value. It is a function, or a lambda without captures.
    constexpr explicit stack_local(T (*maker)()) noexcept : make_(maker) {}

    stack_local(const stack_local &) = delete;
    stack_local &operator=(const stack_local &) = delete;

    /// The running stack's value. Makes it if there is none.
    T &get() const {
        void *value = exeunt_get(this);
        return value ? *static_cast<T *>(value) : make();
    }

    /// The running stack's value, or null. Never arms the stack.
    T *try_get() const noexcept { return static_cast<T *>(exeunt_get(this)); }

    /// Makes `value` the running stack's value, and destroys the previous one.
    T &set(T value) const { return keep(std::make_unique<T>(std::move(value))); }

    /// Destroys the running stack's value, if there is one. Returns whether there was one. The next
    /// use makes another.
    bool del() const noexcept { return exeunt_del(this) == EXEUNT_OK; }

    T &operator*() const { return get(); }
    T *operator->() const { return &get(); }

private:
    static T *fresh(T (*maker)()) {
        if (maker) {
            return new T(maker());
        }
        if constexpr (std::is_default_constructible_v<T>) {
            return new T();
        } else {
            throw std::logic_error("exeunt::stack_local: no default constructor, and no function to make a value");
        }
    }

    T &make() const { return keep(std::unique_ptr<T>(fresh(make_))); }

    T &keep(std::unique_ptr<T> value) const {
        detail::check(exeunt_set(this, value.get(), detail::destroy<T>));
        return *value.release(); // the stack owns it now
    }

    T (*make_)() = nullptr;
};

/// A slot for values of type T. Every stack has a value of its own, or none, as at first. The
/// slot's destructor destroys all of them.
///
/// No other stack may be using the slot when it is destroyed.
template <class T> class slot {
public:
    slot() { detail::check(exeunt_slot_alloc(&slot_, detail::destroy<T>)); }

    ~slot() {
        if (slot_ != 0) {
            exeunt_slot_free(slot_);
        }
    }

    slot(slot &&other) noexcept : slot_(std::exchange(other.slot_, 0)) {}
    slot &operator=(slot &&other) noexcept {
        std::swap(slot_, other.slot_);
        return *this;
    }

    /// The running stack's value, or null. Never arms the stack.
    T *get() const noexcept {
        void *value = nullptr;
        exeunt_slot_get(slot_, &value);
        return static_cast<T *>(value);
    }

    /// Makes `value` the running stack's value, and destroys the previous one.
    T &set(T value) { return emplace(std::move(value)); }

    /// As `set`, with a value that is constructed in its place.
    template <class... A> T &emplace(A &&...arguments) {
        auto fresh = std::make_unique<T>(std::forward<A>(arguments)...);
        std::unique_ptr<T> old(get());
        if (int code = exeunt_slot_set(slot_, fresh.get())) {
            old.release(); // the slot still holds it
            detail::check(code);
        }
        return *fresh.release(); // the stack owns it now
    }

    /// Takes the running stack's value, and leaves none. Null if there is none.
    std::unique_ptr<T> take() {
        std::unique_ptr<T> old(get());
        if (old && exeunt_slot_set(slot_, nullptr) != EXEUNT_OK) {
            old.release(); // the slot still holds it
        }
        return old;
    }

    /// Whether the running stack has a value.
    explicit operator bool() const noexcept { return get() != nullptr; }

private:
    std::uint32_t slot_ = 0;
};

namespace detail {

/// Runs `f` through `run`, which calls one of the C functions that take an entry function.
template <class F, class Run> std::invoke_result_t<F> run_entry(F &&f, Run run) {
    struct call {
        std::remove_reference_t<F> *f;
        returned<std::invoke_result_t<F>> result;
    } call{std::addressof(f), {}};
    using call_type = decltype(call);
    exeunt_entry entry = [](void *arg) -> void * {
        auto *called = static_cast<call_type *>(arg);
        called->result.of(std::forward<F>(*called->f));
        return nullptr;
    };
    check(run(entry, &call));
    return call.result.take();
}

} // namespace detail

/// Runs `f` as the running stack's entry function, and returns the result of `f`. When `f` returns,
/// or when an exception leaves it, its handlers run and the values that it stored are destroyed. A
/// fiber library's forced unwinding is such an exception.
///
/// Throws exeunt::error, without having called `f`, where the stack is armed already.
template <class F> std::invoke_result_t<F> enter(F &&f) {
    return detail::run_entry(std::forward<F>(f),
                             [](exeunt_entry entry, void *arg) { return exeunt_enter(entry, arg, nullptr); });
}

/// As `enter`, on a stack whose memory you know: from `low` to `high`. No outer frame may have
/// armed the stack. `enter_on` does not look up the stack, so it costs little more than the call.
/// Where the stack pointer is not in that memory it throws exeunt::error.
template <class F> std::invoke_result_t<F> enter_on(const void *low, const void *high, F &&f) {
    return detail::run_entry(std::forward<F>(f), [low, high](exeunt_entry entry, void *arg) {
        return exeunt_enter_on(low, high, entry, arg, nullptr);
    });
}

/// A callable that runs another one in `enter`, and passes on all arguments. Start a fiber with it:
///
///   boost::fibers::fiber fiber(exeunt::entered([] { ... }));
///   boost::context::callcc(exeunt::entered([](boost::context::continuation &&caller) {
///       ...;
///       return std::move(caller);
///   }));
template <class F> class entered {
public:
    explicit entered(F f) : f_(std::move(f)) {}

    template <class... A> std::invoke_result_t<F &, A...> operator()(A &&...arguments) {
        return enter([&]() -> std::invoke_result_t<F &, A...> { return std::invoke(f_, std::forward<A>(arguments)...); });
    }

private:
    F f_;
};

/// The RAII interface for the function of a fiber. From the object's construction to its
/// destruction the running stack has storage and handlers, whatever made the stack. The destructor
/// drains the stack, on return and on unwinding alike.
///
/// The object takes the place of the stack's foot. So it must be an automatic variable of that
/// function, declared before any use of storage. The function must use neither alloca nor arrays of
/// variable length, and pass at most 1 KiB of arguments by value. It must not be a C++20 coroutine,
/// which keeps its variables elsewhere; the constructor throws there. Where you can choose, `enter`
/// costs less and has no such rules.
class scope {
public:
    scope() { detail::check(exeunt_scope_begin(&scope_)); }
    ~scope() { exeunt_scope_end(&scope_); }

    scope(const scope &) = delete;
    scope &operator=(const scope &) = delete;

    static void *operator new(std::size_t) = delete;
    static void *operator new[](std::size_t) = delete;

private:
    exeunt_scope scope_;
};

/// Drains the stacks in this memory, which must never run again, although their functions have not
/// returned.
inline void discard(const void *low, const void *high) { detail::check(exeunt_discard(low, high)); }

/// Registers a runtime's wrapper: code that calls a fiber's function, and switches away when the
/// function has returned.
inline void register_trampoline(const char *name, const void *start, const void *end) {
    detail::check(exeunt_register_trampoline(name, start, end));
}

} // namespace exeunt

#endif // EXEUNT_HPP
