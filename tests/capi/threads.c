/* Threads without any preparation, through exeunt.h alone. */
#include "check.h"

#include <exeunt.h>
#include <pthread.h>
#include <string.h>

static int log_[64];
static int logged;

static void note(void *arg) { log_[logged++] = (int)(intptr_t)arg; }

static void *on_a_thread_with(void *(*start)(void *), void *arg) {
    pthread_t thread;
    void *result = NULL;
    logged = 0;
    CHECK(pthread_create(&thread, NULL, start, arg) == 0);
    CHECK(pthread_join(thread, &result) == 0);
    return result;
}

static void *on_a_thread(void *(*start)(void *)) { return on_a_thread_with(start, NULL); }

static void *registers_three(void *arg) {
    (void)arg;
    for (intptr_t number = 1; number <= 3; number++)
        CHECK(exeunt_at_exit(note, (void *)number) == EXEUNT_OK);
    return (void *)42;
}

static void handlers_run_last_in_first_out_and_the_result_survives(void) {
    CHECK(on_a_thread(registers_three) == (void *)42);
    CHECK(logged == 3 && log_[0] == 3 && log_[1] == 2 && log_[2] == 1);
}

static char key_a, key_b;

static void *stores_two(void *arg) {
    (void)arg;
    CHECK(exeunt_get(&key_a) == NULL);
    CHECK(exeunt_set(&key_a, (void *)10, note) == EXEUNT_OK);
    CHECK(exeunt_set(&key_b, (void *)20, note) == EXEUNT_OK);
    CHECK(exeunt_get(&key_a) == (void *)10);
    CHECK(exeunt_set(&key_a, (void *)11, note) == EXEUNT_OK);
    CHECK(logged == 1 && log_[0] == 10); /* the replaced one is destroyed at once */
    CHECK(exeunt_get(&key_a) == (void *)11);
    return NULL;
}

static void values_are_destroyed_last_set_first_and_replaced_ones_at_once(void) {
    on_a_thread(stores_two);
    CHECK(logged == 3 && log_[1] == 11 && log_[2] == 20);
    CHECK(exeunt_get(&key_a) == NULL); /* this thread never had one */
}

static void looks_at_the_value(void *arg) {
    (void)arg;
    note(exeunt_get(&key_a));
}

static void *stores_and_registers(void *arg) {
    (void)arg;
    CHECK(exeunt_at_exit(looks_at_the_value, NULL) == EXEUNT_OK);
    CHECK(exeunt_set(&key_a, (void *)5, note) == EXEUNT_OK);
    return NULL;
}

static void handlers_see_the_values(void) {
    on_a_thread(stores_and_registers);
    CHECK(logged == 2 && log_[0] == 5 && log_[1] == 5);
}

static void sets_another(void *value) {
    note(value);
    if (value == (void *)1)
        CHECK(exeunt_set(&key_b, (void *)2, sets_another) == EXEUNT_OK);
}

static void *stores_a_value_whose_destructor_stores(void *arg) {
    (void)arg;
    CHECK(exeunt_set(&key_a, (void *)1, sets_another) == EXEUNT_OK);
    return NULL;
}

static void storage_works_in_a_destructor(void) {
    on_a_thread(stores_a_value_whose_destructor_stores);
    CHECK(logged == 2 && log_[0] == 1 && log_[1] == 2);
}

static void *deletes_resets_unloads(void *arg) {
    (void)arg;
    CHECK(exeunt_del(&key_a) == EXEUNT_EABSENT);
    CHECK(exeunt_set(&key_a, (void *)1, note) == EXEUNT_OK);
    CHECK(exeunt_del(&key_a) == EXEUNT_OK && logged == 1);
    CHECK(exeunt_get(&key_a) == NULL);

    CHECK(exeunt_set(&key_a, (void *)2, note) == EXEUNT_OK);
    CHECK(exeunt_reset() == EXEUNT_OK && logged == 2);
    CHECK(exeunt_get(&key_a) == NULL);

    uint64_t id = exeunt_id();
    CHECK(id != 0 && exeunt_id() == id);
    CHECK(exeunt_at_exit(note, (void *)99) == EXEUNT_OK);
    CHECK(exeunt_set(&key_a, (void *)3, note) == EXEUNT_OK);
    CHECK(exeunt_unload() == EXEUNT_OK && logged == 3);
    CHECK(exeunt_id() != id);
    CHECK(exeunt_unload() == EXEUNT_OK);
    return NULL;
}

static void delete_reset_and_unload_destroy_and_unload_forgets_the_handlers(void) {
    on_a_thread(deletes_resets_unloads);
    CHECK(logged == 3);
}

static uint64_t stopped_by_another;

static void stops_itself_and_another(void *arg) {
    CHECK(exeunt_stop(*(uint64_t *)arg) == EXEUNT_EABSENT);
    CHECK(exeunt_stop(stopped_by_another) == EXEUNT_OK);
}

static void *takes_handlers_back(void *arg) {
    static uint64_t itself;
    uint64_t registration = 1;
    CHECK(exeunt_at_exit_stoppable(NULL, NULL, NULL, &registration) == EXEUNT_EINVALID && registration == 0);
    CHECK(exeunt_at_exit_stoppable(note, NULL, NULL, NULL) == EXEUNT_EINVALID);
    CHECK(exeunt_stop(0) == EXEUNT_EABSENT);
    /* As the requests of a connection that stays. */
    for (int round = 0; round < 100000; round++) {
        CHECK(exeunt_at_exit_stoppable(note, NULL, (void *)1, &registration) == EXEUNT_OK && registration != 0);
        CHECK(exeunt_stop(registration) == EXEUNT_OK);
    }
    CHECK(exeunt_stop(registration) == EXEUNT_EABSENT && logged == 0);
    CHECK(exeunt_at_exit_stoppable(note, note, (void *)2, &registration) == EXEUNT_OK);
    CHECK(exeunt_stop(registration) == EXEUNT_OK && logged == 1 && log_[0] == 2);
    CHECK(exeunt_at_exit_stoppable(note, note, (void *)3, &stopped_by_another) == EXEUNT_OK);
    CHECK(exeunt_at_exit_stoppable(stops_itself_and_another, NULL, &itself, &itself) == EXEUNT_OK);
    CHECK(exeunt_at_exit_stoppable(note, NULL, (void *)4, arg) == EXEUNT_OK);
    return NULL;
}

static void *stops_a_handler_of_another_stack(void *arg) {
    CHECK(exeunt_at_exit(note, (void *)9) == EXEUNT_OK);
    CHECK(exeunt_stop(*(uint64_t *)arg) == EXEUNT_EABSENT);
    return NULL;
}

static void handlers_are_taken_back_by_their_own_stack_alone(void) {
    uint64_t registration;
    CHECK(exeunt_at_exit_stoppable(note, NULL, (void *)5, &registration) == EXEUNT_OK);
    uint64_t of_another;
    on_a_thread_with(takes_handlers_back, &of_another);
    CHECK(logged == 3 && log_[0] == 2 && log_[1] == 4 && log_[2] == 3);
    CHECK(exeunt_stop(of_another) == EXEUNT_EABSENT);
    logged = 0;
    on_a_thread_with(stops_a_handler_of_another_stack, &registration);
    CHECK(logged == 1 && log_[0] == 9);
    CHECK(exeunt_stop(registration) == EXEUNT_OK);
}

static void *ends_by_pthread_exit(void *arg) {
    (void)arg;
    CHECK(exeunt_at_exit(note, (void *)7) == EXEUNT_OK);
    CHECK(exeunt_set(&key_a, (void *)8, note) == EXEUNT_OK);
    pthread_exit((void *)9);
}

static void pthread_exit_drains_as_a_return_does(void) {
    CHECK(on_a_thread(ends_by_pthread_exit) == (void *)9);
    CHECK(logged == 2 && log_[0] == 7 && log_[1] == 8);
}

static uint32_t slot;
static pthread_barrier_t both;

static void *uses_the_slot(void *arg) {
    (void)arg;
    void *value = (void *)1;
    CHECK(exeunt_slot_get(slot, &value) == EXEUNT_OK && value == NULL);
    CHECK(exeunt_slot_set(slot, (void *)6) == EXEUNT_OK);
    CHECK(exeunt_slot_get(slot, &value) == EXEUNT_OK && value == (void *)6);
    return NULL;
}

static void *waits_while_the_slot_is_freed(void *arg) {
    (void)arg;
    void *value = NULL;
    uint32_t next;
    CHECK(exeunt_slot_set(slot, (void *)6) == EXEUNT_OK);
    pthread_barrier_wait(&both);
    pthread_barrier_wait(&both);
    CHECK(exeunt_slot_get(slot, &value) == EXEUNT_ENO_SUCH_SLOT && value == NULL);
    CHECK(exeunt_slot_alloc(&next, NULL) == EXEUNT_OK);
    CHECK(exeunt_slot_get(next, &value) == EXEUNT_OK && value == NULL);
    CHECK(exeunt_slot_free(next) == EXEUNT_OK);
    return NULL;
}

static void slots_are_null_at_first_and_destroyed_at_the_stacks_end_and_when_freed(void) {
    CHECK(exeunt_slot_alloc(NULL, NULL) == EXEUNT_EINVALID);
    CHECK(exeunt_slot_alloc(&slot, note) == EXEUNT_OK && slot != 0);
    on_a_thread(uses_the_slot);
    CHECK(logged == 1 && log_[0] == 6);

    pthread_t thread;
    logged = 0;
    CHECK(pthread_barrier_init(&both, NULL, 2) == 0);
    CHECK(pthread_create(&thread, NULL, waits_while_the_slot_is_freed, NULL) == 0);
    pthread_barrier_wait(&both);
    CHECK(exeunt_slot_free(slot) == EXEUNT_OK);
    CHECK(logged == 1 && log_[0] == 6); /* the value of the other, live thread */
    CHECK(exeunt_slot_free(slot) == EXEUNT_ENO_SUCH_SLOT);
    CHECK(exeunt_slot_set(slot, NULL) == EXEUNT_ENO_SUCH_SLOT);
    pthread_barrier_wait(&both);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(logged == 1);
}

static void there_are_at_least_1088_slots_and_then_an_error(void) {
    static uint32_t slots[65536];
    int count = 0, code = EXEUNT_OK;
    while (count < 65536 && (code = exeunt_slot_alloc(&slots[count], NULL)) == EXEUNT_OK)
        count++;
    CHECK(count >= 1088 && code == EXEUNT_ESLOTS_EXHAUSTED);
    while (count-- > 0)
        CHECK(exeunt_slot_free(slots[count]) == EXEUNT_OK);
}

static void every_code_has_words_and_a_failure_has_its_own(void) {
    for (int code = 0; code >= EXEUNT_ETOO_EARLY; code--)
        CHECK(strcmp(exeunt_strerror(code), exeunt_strerror(-1000)) != 0);
    CHECK(exeunt_slot_free(0) == EXEUNT_ENO_SUCH_SLOT);
    char text[8], whole[256];
    size_t length = exeunt_last_error(NULL, 0);
    CHECK(length > 8 && exeunt_last_error(text, sizeof text) == length && strlen(text) == 7);
    CHECK(exeunt_last_error(whole, sizeof whole) == length && strlen(whole) == length);
    CHECK(strncmp(text, whole, 7) == 0);
    CHECK(exeunt_last_code() == EXEUNT_ENO_SUCH_SLOT);
}

static pthread_key_t late_key;
static int said_late;

static void fail_late(void *value) {
    (void)value;
    char text[256];
    memset(text, '#', sizeof text);
    CHECK(exeunt_slot_free(0) == EXEUNT_ENO_SUCH_SLOT && exeunt_last_code() == EXEUNT_ENO_SUCH_SLOT);
    size_t length = exeunt_last_error(text, sizeof text);
    said_late = length > 0 && strlen(text) == length;
}

static void *fail_early_and_late(void *arg) {
    CHECK(exeunt_last_code() == EXEUNT_OK && exeunt_last_error(NULL, 0) == 0);
    CHECK(exeunt_slot_free(0) == EXEUNT_ENO_SUCH_SLOT);
    pthread_setspecific(late_key, "not null");
    return arg;
}

/* After the thread's own text has been destroyed. */
static void a_failure_has_words_to_the_end_of_the_thread(void) {
    pthread_t thread;
    CHECK(pthread_key_create(&late_key, fail_late) == 0);
    CHECK(pthread_create(&thread, NULL, fail_early_and_late, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(said_late && pthread_key_delete(late_key) == 0);
}

static void null_arguments_are_refused(void) {
    CHECK(exeunt_at_exit(NULL, NULL) == EXEUNT_EINVALID);
    CHECK(exeunt_enter(NULL, NULL, NULL) == EXEUNT_EINVALID);
    CHECK(exeunt_discard((void *)2, (void *)1) == EXEUNT_EINVALID);
    CHECK(exeunt_register_trampoline(NULL, (void *)1, (void *)2) == EXEUNT_EINVALID);
    CHECK(exeunt_register_trampoline("none", (void *)2, (void *)2) == EXEUNT_EINVALID);
    CHECK(exeunt_slot_get(1, NULL) == EXEUNT_EINVALID);
    CHECK(exeunt_scope_begin(NULL) == EXEUNT_EINVALID);
    CHECK(exeunt_scope_end(NULL) == EXEUNT_EINVALID);
}

static void *returns_its_argument(void *arg) {
    CHECK(exeunt_set(&key_a, arg, note) == EXEUNT_OK);
    return arg;
}

static void *enters(void *arg) {
    void *result = NULL;
    CHECK(exeunt_enter(returns_its_argument, (void *)4, &result) == EXEUNT_OK && result == (void *)4);
    CHECK(logged == 1 && exeunt_get(&key_a) == NULL);
    uintptr_t here = (uintptr_t)&result;
    CHECK(exeunt_enter_on((void *)(here - 4096), (void *)(here + 4096), returns_its_argument, (void *)5, NULL) ==
          EXEUNT_OK);
    CHECK(logged == 2);
    CHECK(exeunt_enter_on((void *)1, (void *)2, returns_its_argument, arg, NULL) == EXEUNT_ENOT_ON_THAT_STACK);
    CHECK(exeunt_id() != 0);
    CHECK(exeunt_enter(returns_its_argument, arg, &result) == EXEUNT_EALREADY_ARMED);
    return NULL;
}

static void enter_gives_the_result_and_drains_before_it_returns(void) {
    on_a_thread(enters);
    CHECK(logged == 2);
}

static void says_goodbye(void *arg) {
    printf("ok   %s\n", (const char *)arg);
    fflush(stdout);
}

static void passes_a_cancellation_point(void *arg) {
    pthread_testcancel();
    note(arg);
}

static void *is_cancelled_before_its_values_are_destroyed(void *arg) {
    CHECK(exeunt_set(&key_a, (void *)1, passes_a_cancellation_point) == EXEUNT_OK);
    CHECK(pthread_cancel(pthread_self()) == 0);
    CHECK(exeunt_set(&key_a, (void *)2, passes_a_cancellation_point) == EXEUNT_OK);
    CHECK(exeunt_del(&key_a) == EXEUNT_OK);
    CHECK(exeunt_set(&key_a, (void *)3, passes_a_cancellation_point) == EXEUNT_OK);
    CHECK(exeunt_reset() == EXEUNT_OK);
    CHECK(exeunt_set(&key_a, (void *)4, passes_a_cancellation_point) == EXEUNT_OK);
    CHECK(exeunt_unload() == EXEUNT_OK);
    uint32_t slot;
    CHECK(exeunt_slot_alloc(&slot, passes_a_cancellation_point) == EXEUNT_OK);
    CHECK(exeunt_slot_set(slot, (void *)5) == EXEUNT_OK);
    CHECK(exeunt_slot_free(slot) == EXEUNT_OK);
    note((void *)6);
    pthread_testcancel();
    return arg;
}

static void a_thread_is_not_cancelled_in_a_destructor(void) {
    CHECK(on_a_thread(is_cancelled_before_its_values_are_destroyed) == PTHREAD_CANCELED);
    CHECK(logged == 6);
    for (int number = 0; number < 6; number++)
        CHECK(log_[number] == number + 1);
}

static void the_librarys_version_is_the_headers(void) {
    char version[64];
    snprintf(version, sizeof version, "%d.%d.%d", EXEUNT_VERSION_MAJOR, EXEUNT_VERSION_MINOR, EXEUNT_VERSION_PATCH);
    CHECK(strcmp(exeunt_version(), EXEUNT_VERSION) == 0);
    CHECK(strncmp(EXEUNT_VERSION, version, strlen(version)) == 0);
}

static int ending;
static void *ended_with;

static void asks_how(void *arg) {
    (void)arg;
    ended_with = NULL;
    ending = exeunt_ending();
    int code = exeunt_returned_value(&ended_with);
    CHECK(code == EXEUNT_OK || (code == EXEUNT_EABSENT && ended_with == NULL));
}

static void *returns_it(void *arg) {
    CHECK(exeunt_ending() == EXEUNT_ENDING_NONE && exeunt_returned_value(NULL) == EXEUNT_EINVALID);
    CHECK(exeunt_at_exit(asks_how, NULL) == EXEUNT_OK);
    return arg;
}

static void *exits_with_it(void *arg) {
    CHECK(exeunt_set(&key_a, arg, asks_how) == EXEUNT_OK);
    pthread_exit(arg);
}

static void *is_cancelled(void *arg) {
    CHECK(exeunt_at_exit(asks_how, NULL) == EXEUNT_OK);
    CHECK(pthread_cancel(pthread_self()) == 0);
    pthread_testcancel();
    return arg;
}

static void *in_a_scope(void *arg) {
    exeunt_scope scope;
    CHECK(exeunt_scope_begin(&scope) == EXEUNT_OK);
    CHECK(exeunt_at_exit(asks_how, NULL) == EXEUNT_OK);
    CHECK(exeunt_scope_end(&scope) == EXEUNT_OK);
    CHECK(ending == EXEUNT_ENDING_SCOPE && ended_with == NULL);
    CHECK(exeunt_enter(returns_it, arg, NULL) == EXEUNT_OK);
    CHECK(ending == EXEUNT_ENDING_RETURNED && ended_with == NULL);
    return arg;
}

static void a_handler_can_ask_how_its_stack_ends(void) {
    CHECK(on_a_thread_with(returns_it, (void *)7) == (void *)7);
    CHECK(ending == EXEUNT_ENDING_RETURNED && ended_with == (void *)7);
    CHECK(on_a_thread_with(exits_with_it, (void *)8) == (void *)8);
    CHECK(ending == EXEUNT_ENDING_EXITED && ended_with == (void *)8);
    CHECK(on_a_thread(is_cancelled) == PTHREAD_CANCELED);
    CHECK(ending == EXEUNT_ENDING_CANCELLED && ended_with == NULL);
    on_a_thread(in_a_scope);
}

static uint64_t listed_id;
static struct exeunt_stack listed;

static __attribute__((noinline)) void arms(void) {
    CHECK(exeunt_at_exit(note, NULL) == EXEUNT_OK);
    __asm__ volatile(""); /* no tail call */
}

static void *lists_itself(void *arg) {
    struct exeunt_stack stacks[64];
    arms();
    listed_id = exeunt_id();
    size_t count = exeunt_stacks(stacks, 64);
    CHECK(count > 0 && count <= 64 && exeunt_stacks(NULL, 0) == count);
    for (size_t number = 0; number < count; number++)
        if (stacks[number].id == listed_id)
            listed = stacks[number];
    return arg;
}

static void armed_stacks_are_listed_with_the_call_that_has_armed_them(void) {
    size_t before = exeunt_stacks(NULL, 0);
    on_a_thread(lists_itself);
    CHECK(listed.id == listed_id && listed.kind == EXEUNT_KIND_THREAD && listed.draining == 0);
    uintptr_t foot = (uintptr_t)listed.foot, base = (uintptr_t)listed.base, from = (uintptr_t)listed.armed_from;
    CHECK(foot < base && base - foot <= 4096);
    CHECK(from > (uintptr_t)arms && from - (uintptr_t)arms < 256);
    CHECK(exeunt_stacks(NULL, 0) == before);
}

int main(void) {
    RUN(the_librarys_version_is_the_headers);
    RUN(handlers_run_last_in_first_out_and_the_result_survives);
    RUN(values_are_destroyed_last_set_first_and_replaced_ones_at_once);
    RUN(handlers_see_the_values);
    RUN(storage_works_in_a_destructor);
    RUN(delete_reset_and_unload_destroy_and_unload_forgets_the_handlers);
    RUN(handlers_are_taken_back_by_their_own_stack_alone);
    RUN(pthread_exit_drains_as_a_return_does);
    RUN(slots_are_null_at_first_and_destroyed_at_the_stacks_end_and_when_freed);
    RUN(there_are_at_least_1088_slots_and_then_an_error);
    RUN(every_code_has_words_and_a_failure_has_its_own);
    RUN(a_failure_has_words_to_the_end_of_the_thread);
    RUN(null_arguments_are_refused);
    RUN(a_thread_is_not_cancelled_in_a_destructor);
    RUN(enter_gives_the_result_and_drains_before_it_returns);
    RUN(a_handler_can_ask_how_its_stack_ends);
    RUN(armed_stacks_are_listed_with_the_call_that_has_armed_them);
    /* The script that runs this searches for the line. */
    CHECK(exeunt_at_exit(says_goodbye, "the_main_thread_runs_its_handlers_when_main_returns") == EXEUNT_OK);
    return 0;
}
