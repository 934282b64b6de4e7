// exeunt for C++17: storage and exit handlers for any stack - thread, main thread or fiber - without having started it.
//
// Header only, on top of exeunt.h. Nothing here looks at the stack pointer or at a thread-local: it all calls the C
// functions, so nothing can be kept in a register across a fiber's switch to another thread.
//
//   exeunt::at_exit(f)        calls f when the running stack ends
//   exeunt::stack_local<T>    a static with a value for each stack
//   exeunt::slot<T>           the same as an object that comes and goes, at run time
//   exeunt::enter(f)          runs f as the entry function of a fiber; its result and its exceptions pass through
//   exeunt::enter_on          the same where the stack's memory is known: it costs less
//   exeunt::entered(f)        a callable that does so: what to give to Boost.Context and Boost.Fiber
//   exeunt::scope             the same as an object in the fiber's function
//   exeunt::discard, exeunt::register_trampoline, exeunt::id, exeunt::reset, exeunt::unload
//
// Functions throw exeunt::error where the C functions return a code. Handlers and destructors must not throw: they run
// where nobody could catch it, so std::terminate is called.

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

/// What a function returned, until somebody takes it.
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

/// Calls `handler` when the running stack ends: last in first out, on that stack, with all its values still there.
template <class F> void at_exit(F &&handler) {
    using handler_type = std::decay_t<F>;
    auto owned = std::make_unique<handler_type>(std::forward<F>(handler));
    exeunt_fn call = [](void *arg) noexcept {
        std::unique_ptr<handler_type> called(static_cast<handler_type *>(arg));
        std::invoke(std::move(*called));
    };
    detail::check(exeunt_at_exit_owned(call, detail::destroy<handler_type>, owned.get()));
    owned.release(); // the stack owns it now
}

/// The identity of the running stack: unique in the life of the process, never zero.
inline std::uint64_t id() {
    std::uint64_t id = exeunt_id();
    if (id == 0) {
        detail::check(exeunt_last_code());
    }
    return id;
}

/// Destroys all values of the running stack, and keeps its handlers.
inline void reset() { detail::check(exeunt_reset()); }

/// Destroys all values of the running stack, forgets its handlers, and disarms it.
inline void unload() { detail::check(exeunt_unload()); }

/// A variable with a value for each stack, made at its first use there and destroyed when the stack ends.
///
/// It must be a static: `static exeunt::stack_local<T> name;`, or with what makes the first value,
/// `static exeunt::stack_local<T> name{[] { return T(...); }};`. References to the value are good until the stack ends
/// or its values are reset. T's constructor and destructor must not use the same variable. Before `main`, and in what runs
/// after a stack's handlers (destructors of statics and of `thread_local`s), there is no storage: `get` throws there, and
/// `try_get` gives null.
template <class T> class stack_local {
public:
    constexpr stack_local() noexcept = default;

    /// `maker` gives the first value: a function, or a lambda without captures.
    constexpr explicit stack_local(T (*maker)()) noexcept : make_(maker) {}

    stack_local(const stack_local &) = delete;
    stack_local &operator=(const stack_local &) = delete;

    /// The running stack's value, which is made if it is not there.
    T &get() const {
        void *value = exeunt_get(this);
        return value ? *static_cast<T *>(value) : make();
    }

    /// The running stack's value, or null. It never arms the stack.
    T *try_get() const noexcept { return static_cast<T *>(exeunt_get(this)); }

    /// Destroys the running stack's value, if there is one; the next use makes another.
    void clear() const noexcept { exeunt_del(this); }

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

    T &make() const {
        std::unique_ptr<T> value(fresh(make_));
        detail::check(exeunt_set(this, value.get(), detail::destroy<T>));
        return *value.release(); // the stack owns it now
    }

    T (*make_)() = nullptr;
};

/// A slot for values of type T: one on every stack, none at first, all destroyed with the slot.
///
/// When it is destroyed, no other stack may be using it.
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

    /// The running stack's value, or null. It never arms the stack.
    T *get() const noexcept {
        void *value = nullptr;
        exeunt_slot_get(slot_, &value);
        return static_cast<T *>(value);
    }

    /// Makes the running stack's value, and destroys the one that was there.
    template <class... A> T &emplace(A &&...arguments) {
        auto fresh = std::make_unique<T>(std::forward<A>(arguments)...);
        std::unique_ptr<T> old(get());
        if (int code = exeunt_slot_set(slot_, fresh.get())) {
            old.release(); // still in its place
            detail::check(code);
        }
        return *fresh.release(); // the stack owns it now
    }

    /// Destroys the running stack's value, if there is one.
    void clear() {
        std::unique_ptr<T> old(get());
        if (old && exeunt_slot_set(slot_, nullptr) != EXEUNT_OK) {
            old.release();
        }
    }

    /// Whether the running stack has a value.
    explicit operator bool() const noexcept { return get() != nullptr; }

private:
    std::uint32_t slot_ = 0;
};

namespace detail {

/// Runs `f` by `run`, which calls one of the C functions that take an entry function.
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

/// Runs `f` as the running stack's entry function, and returns what it returns. What it stores is destroyed, and its
/// handlers run, when it returns or is left by an exception; a fiber library's forced unwinding is one of those.
///
/// Throws exeunt::error, without having called `f`, where the stack has its end already.
template <class F> std::invoke_result_t<F> enter(F &&f) {
    return detail::run_entry(std::forward<F>(f),
                             [](exeunt_entry entry, void *arg) { return exeunt_enter(entry, arg, nullptr); });
}

/// As `enter`, on a stack whose memory is known to be from `low` to `high`, on which no function further out is armed: it
/// need not look who else is on this stack, so it costs little more than the call. On other memory it throws exeunt::error.
template <class F> std::invoke_result_t<F> enter_on(const void *low, const void *high, F &&f) {
    return detail::run_entry(std::forward<F>(f), [low, high](exeunt_entry entry, void *arg) {
        return exeunt_enter_on(low, high, entry, arg, nullptr);
    });
}

/// A callable that runs another one in `enter`, with all arguments passed on: what to start a fiber with.
///
///   boost::fibers::fiber fiber(exeunt::entered([] { ... }));
///   boost::context::callcc(exeunt::entered([](boost::context::continuation &&caller) { ...; return std::move(caller); }));
template <class F> class entered {
public:
    explicit entered(F f) : f_(std::move(f)) {}

    template <class... A> std::invoke_result_t<F &, A...> operator()(A &&...arguments) {
        return enter([&]() -> std::invoke_result_t<F &, A...> { return std::invoke(f_, std::forward<A>(arguments)...); });
    }

private:
    F f_;
};

/// From its construction to its destruction, the running stack has storage and handlers, whatever made it: the RAII face
/// for the function of a fiber. Its destruction drains the stack, on return and on unwinding alike.
///
/// It is the stack's foot itself, so it must be an automatic variable of that function, declared before any use of
/// storage. That function must not use alloca, nor be a C++20 coroutine: those keep their variables elsewhere, and the
/// constructor refuses. Where you can choose, `enter` costs less and has no such rules.
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

/// Says that the stacks in this memory will never run again, although their functions have not returned.
inline void discard(const void *low, const void *high) { detail::check(exeunt_discard(low, high)); }

/// Makes a runtime's wrapper known, which calls a fiber's function and switches away when that has returned.
inline void register_trampoline(const char *name, const void *start, const void *end) {
    detail::check(exeunt_register_trampoline(name, start, end));
}

} // namespace exeunt

#endif // EXEUNT_HPP
