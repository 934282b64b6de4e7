/* The ends of all threads where the process uses slot redirect, through exeunt.h alone. */
#include "check.h"

#include <exeunt.h>
#include <pthread.h>

static _Thread_local int is_watched;
static exeunt_stack_end last;
static int ends, handlers, handlers_at_end;

static void note(const exeunt_stack_end *end, void *arg) {
    if (!is_watched)
        return;
    last = *end;
    ends += *(int *)arg;
    handlers_at_end = handlers;
}

static void *returns(void *arg) {
    is_watched = 1;
    return arg;
}

static void *exits(void *arg) {
    is_watched = 1;
    pthread_exit(arg);
}

static void handler(void *arg) {
    (void)arg;
    handlers++;
}

static void *arms(void *arg) {
    is_watched = 1;
    CHECK(exeunt_at_exit(handler, NULL) == EXEUNT_OK);
    return arg;
}

static void run(void *(*routine)(void *), void *arg) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, routine, arg) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void each_thread_s_end_is_reported_until_the_function_is_taken_back(void) {
    int three = 3;
    CHECK(exeunt_install_redirect(EXEUNT_REDIRECT_SLOT) == EXEUNT_OK);
    CHECK(exeunt_on_every_end(note, &three) == EXEUNT_EREDIRECT);
    CHECK(exeunt_on_every_thread_end(NULL, NULL) == EXEUNT_EINVALID);
    CHECK(exeunt_on_every_thread_end(note, &three) == EXEUNT_OK);
    CHECK(exeunt_on_every_thread_end(note, &three) == EXEUNT_EBUSY);
    run(returns, &three);
    CHECK(ends == 3 && last.kind == EXEUNT_KIND_THREAD && last.ending == EXEUNT_ENDING_RETURNED && !last.armed);
    CHECK(last.value == &three);
    run(exits, &three);
    CHECK(ends == 6 && last.ending == EXEUNT_ENDING_EXITED && last.value == &three);
    CHECK(exeunt_restore_code_sites() == EXEUNT_EIN_USE);
    CHECK(exeunt_stop_every_end() == EXEUNT_OK && exeunt_stop_every_end() == EXEUNT_EABSENT);
    CHECK(exeunt_restore_code_sites() == EXEUNT_OK);
    run(returns, &three);
    CHECK(ends == 6);
}

static void a_stack_that_slot_redirect_has_armed_has_run_its_handlers(void) {
    int one = 1;
    ends = 0;
    CHECK(exeunt_on_every_thread_end(note, &one) == EXEUNT_OK);
    run(arms, &one);
    CHECK(handlers == 1 && handlers_at_end == 1);
    CHECK(ends == 1 && last.ending == EXEUNT_ENDING_RETURNED && last.value == &one && !last.armed);
    CHECK(exeunt_stop_every_end() == EXEUNT_OK);
}

int main(void) {
    RUN(each_thread_s_end_is_reported_until_the_function_is_taken_back);
    RUN(a_stack_that_slot_redirect_has_armed_has_run_its_handlers);
    return 0;
}
