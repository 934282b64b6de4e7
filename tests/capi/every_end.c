/* The ends of all threads, through exeunt.h alone, and the choice of code redirect. */
#include "check.h"

#include <exeunt.h>
#include <pthread.h>
#include <string.h>

static _Thread_local int is_watched;
static exeunt_stack_end last;
static int ends;

static void note(const exeunt_stack_end *end, void *arg) {
    if (!is_watched)
        return;
    last = *end;
    ends += *(int *)arg;
}

static void *returns(void *arg) {
    is_watched = 1;
    return arg;
}

static void *exits(void *arg) {
    is_watched = 1;
    pthread_exit(arg);
}

static void nothing(void *arg) { (void)arg; }

static void *arms(void *arg) {
    is_watched = 1;
    CHECK(exeunt_at_exit(nothing, NULL) == EXEUNT_OK);
    CHECK(exeunt_restore_code_sites() == EXEUNT_EIN_USE);
    return arg;
}

static void run(void *(*routine)(void *), void *arg) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, routine, arg) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void the_redirect_is_chosen_once(void) {
    CHECK(exeunt_install_redirect(7) == EXEUNT_EINVALID);
    CHECK(exeunt_install_redirect(EXEUNT_REDIRECT_CODE) == EXEUNT_OK);
    CHECK(exeunt_install_redirect(EXEUNT_REDIRECT_CODE) == EXEUNT_OK);
    CHECK(exeunt_install_redirect(EXEUNT_REDIRECT_SLOT) == EXEUNT_EREDIRECT);
}

static void each_end_is_reported_until_the_function_is_taken_back(void) {
    int three = 3;
    char text[1024];
    CHECK(exeunt_on_every_end(NULL, NULL) == EXEUNT_EINVALID);
    CHECK(exeunt_stop_every_end() == EXEUNT_EABSENT);
    CHECK(exeunt_on_every_end(note, &three) == EXEUNT_OK);
    CHECK(exeunt_on_every_end(note, &three) == EXEUNT_EBUSY);
    CHECK(exeunt_last_error(text, sizeof text) > 0 && strstr(text, "another function is called") != NULL);
    run(returns, &three);
    CHECK(ends == 3 && last.kind == EXEUNT_KIND_THREAD && last.ending == EXEUNT_ENDING_RETURNED && !last.armed);
    CHECK(last.value == &three);
    run(exits, &three);
    CHECK(ends == 6 && last.ending == EXEUNT_ENDING_EXITED && last.value == &three);
    CHECK(exeunt_restore_code_sites() == EXEUNT_EIN_USE);
    run(arms, NULL);
    CHECK(ends == 9 && last.armed == 1);
    CHECK(exeunt_stop_every_end() == EXEUNT_OK);
    CHECK(exeunt_restore_code_sites() == EXEUNT_OK);
    run(returns, &three);
    CHECK(ends == 9);
}

static void a_variable_is_no_trampoline(void) { CHECK(exeunt_is_own_trampoline(&ends) == 0); }

int main(void) {
    RUN(the_redirect_is_chosen_once);
    RUN(each_end_is_reported_until_the_function_is_taken_back);
    RUN(a_variable_is_no_trampoline);
    return 0;
}
