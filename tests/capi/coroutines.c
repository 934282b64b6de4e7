/* Coroutines of a library that does not use exeunt: its wrapper is registered as an exit
 * trampoline. */
#include "check.h"
#include "coro.h"

#include <exeunt.h>
#include <pthread.h>
#include <string.h>

enum { STACK = 64 * 1024 };

static char key;
static int destroyed, handled;

static void destroys(void *value) {
    (void)value;
    destroyed++;
}
static void handles(void *arg) {
    (void)arg;
    handled++;
}

static coro *running;

static void cannot_be_armed(void *arg) {
    (void)arg;
    CHECK(exeunt_set(&key, (void *)1, destroys) == EXEUNT_EUNKNOWN_TRAMPOLINE);
    CHECK(exeunt_get(&key) == NULL);
    char text[4096];
    exeunt_last_error(text, sizeof text);
    CHECK(strstr(text, "register_trampoline") != NULL && strstr(text, "frames seen") != NULL);
}

static void before_it_is_registered_the_error_says_what_to_do(void) {
    running = coro_new(cannot_be_armed, NULL, STACK);
    coro_resume(running);
    CHECK(coro_done(running) && destroyed == 0);
    coro_free(running);
}

static void stores_and_yields(void *arg) {
    coro *self = running;
    CHECK(exeunt_get(&key) == NULL);
    CHECK(exeunt_set(&key, arg, destroys) == EXEUNT_OK);
    CHECK(exeunt_at_exit(handles, NULL) == EXEUNT_OK);
    uint64_t id = exeunt_id();
    coro_yield(self);
    CHECK(exeunt_get(&key) == arg && exeunt_id() == id);
    coro_yield(self);
    CHECK(exeunt_get(&key) == arg && exeunt_id() == id);
}

static coro *suspended(void *value) {
    running = coro_new(stores_and_yields, value, STACK);
    CHECK(running != NULL);
    coro_resume(running);
    CHECK(!coro_done(running) && exeunt_get(&key) == NULL);
    return running;
}

static void storage_belongs_to_the_coroutine_and_is_drained_when_its_function_returns(void) {
    CHECK(exeunt_register_trampoline("coro_main", coro_wrapper_start(), coro_wrapper_end()) == EXEUNT_OK);
    destroyed = handled = 0;
    coro *one = suspended((void *)1), *two = suspended((void *)2);
    coro_resume(one);
    coro_resume(two);
    CHECK(destroyed == 0 && handled == 0);
    coro_resume(one);
    CHECK(coro_done(one) && destroyed == 1 && handled == 1);
    coro_resume(two);
    CHECK(coro_done(two) && destroyed == 2 && handled == 2);
    coro_free(one);
    coro_free(two);
}

static void *resumes(void *co) {
    coro_resume(co);
    return NULL;
}

static void storage_follows_the_coroutine_to_other_threads(void) {
    destroyed = handled = 0;
    coro *co = suspended((void *)3);
    for (int time = 0; time < 2; time++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, resumes, co) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    CHECK(coro_done(co) && destroyed == 1 && handled == 1);
    coro_free(co);
}

static void discarding_a_suspended_stack_drains_it(void) {
    destroyed = handled = 0;
    coro *co = suspended((void *)4);
    CHECK(exeunt_discard(coro_low(co), coro_high(co)) == EXEUNT_OK);
    CHECK(destroyed == 1 && handled == 1);
    CHECK(exeunt_discard(coro_low(co), coro_high(co)) == EXEUNT_OK);
    CHECK(destroyed == 1 && handled == 1);
    coro_free(co);
}

static void stores_and_returns(void *arg) {
    CHECK(exeunt_set(&key, arg, destroys) == EXEUNT_OK);
    CHECK(exeunt_at_exit(handles, NULL) == EXEUNT_OK);
}

static void ten_thousand_coroutines_leave_nothing(void) {
    destroyed = handled = 0;
    for (int count = 0; count < 10000; count++) {
        coro *co = coro_new(stores_and_returns, (void *)5, STACK);
        coro_resume(co);
        CHECK(coro_done(co) && destroyed == count + 1 && handled == count + 1);
        coro_free(co);
    }
}

/* exeunt_scope in C: for a coroutine whose wrapper is not registered. */
static void *scoped(void *arg) {
    exeunt_scope scope;
    CHECK(exeunt_scope_begin(&scope) == EXEUNT_OK);
    CHECK(exeunt_scope_begin(&scope) == EXEUNT_EALREADY_ARMED);
    stores_and_returns(arg);
    CHECK(exeunt_get(&key) == arg);
    CHECK(exeunt_scope_end(&scope) == EXEUNT_OK);
    CHECK(exeunt_get(&key) == NULL);
    CHECK(exeunt_scope_begin(&scope) == EXEUNT_OK);
    stores_and_returns(arg);
    CHECK(exeunt_unload() == EXEUNT_OK);
    CHECK(exeunt_scope_end(&scope) == EXEUNT_OK); /* unloaded: nothing to end */
    return NULL;
}

static const char *dropped_in;
static const char *now_in;

static void note_drop(void *value) {
    (void)value;
    dropped_in = now_in;
}

/* A frame larger than what a scope owns around its own. */
__attribute__((noinline)) static void set_far_in(void) {
    static int key;
    volatile char room[4096];
    room[0] = 1;
    CHECK(exeunt_set(&key, &key, note_drop) == EXEUNT_OK);
    CHECK(room[0] == 1);
}

/* The call of set_far_in is the same one with a scope and without. */
__attribute__((noinline)) static void perhaps_scoped(int with_scope) {
    exeunt_scope scope;
    if (with_scope) {
        CHECK(exeunt_scope_begin(&scope) == EXEUNT_OK);
    }
    now_in = "the function";
    __asm__ volatile("" : "+r"(with_scope));
    set_far_in();
    __asm__ volatile("" : "+r"(with_scope));
    if (with_scope) {
        now_in = "the scope's end";
        CHECK(exeunt_scope_end(&scope) == EXEUNT_OK);
    }
    now_in = "the thread's end";
}

static void *run_perhaps_scoped(void *with_scope) {
    perhaps_scoped(with_scope != NULL);
    return NULL;
}

static void a_scope_is_found_where_the_same_calls_have_led_to_the_threads_foot_before(void) {
    static int yes;
    void *const rounds[] = {&yes, NULL, NULL, &yes, &yes};
    for (size_t i = 0; i < sizeof rounds / sizeof rounds[0]; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, run_perhaps_scoped, rounds[i]) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(strcmp(dropped_in, rounds[i] ? "the scope's end" : "the thread's end") == 0);
    }
}

static void a_scope_in_c_lasts_from_its_begin_to_its_end(void) {
    destroyed = handled = 0;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, scoped, (void *)6) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(destroyed == 2 && handled == 1);
}

int main(void) {
    RUN(before_it_is_registered_the_error_says_what_to_do);
    RUN(storage_belongs_to_the_coroutine_and_is_drained_when_its_function_returns);
    RUN(storage_follows_the_coroutine_to_other_threads);
    RUN(discarding_a_suspended_stack_drains_it);
    RUN(ten_thousand_coroutines_leave_nothing);
    RUN(a_scope_in_c_lasts_from_its_begin_to_its_end);
    RUN(a_scope_is_found_where_the_same_calls_have_led_to_the_threads_foot_before);
    return 0;
}
