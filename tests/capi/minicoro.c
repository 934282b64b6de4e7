/* The real minicoro, unchanged: its wrapper _mco_main is registered as an exit trampoline.
 * MINICORO_H is its path. */
#define MINICORO_IMPL
#include MINICORO_HEADER

#include "check.h"

#include <exeunt.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

/* The end of a function, from its unwind table: the second address of the entry is its size, 4
 * bytes, relative. */
struct dwarf_eh_bases {
    void *text, *data, *function;
};
extern const void *_Unwind_Find_FDE(void *pc, struct dwarf_eh_bases *bases);

static const char *end_of(const char *function) {
    struct dwarf_eh_bases bases;
    const char *entry = _Unwind_Find_FDE((void *)(uintptr_t)(function + 1), &bases);
    uint32_t size;
    CHECK(entry != NULL && bases.function == (const void *)function);
    memcpy(&size, entry + 12, sizeof size);
    CHECK(size > 0 && size < 65536);
    return function + size;
}

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

static void body(mco_coro *co) {
    CHECK(exeunt_get(&key) == NULL);
    CHECK(exeunt_set(&key, co, destroys) == EXEUNT_OK);
    CHECK(exeunt_at_exit(handles, NULL) == EXEUNT_OK);
    CHECK(mco_yield(co) == MCO_SUCCESS);
    CHECK(exeunt_get(&key) == co);
}

static mco_coro *created(void) {
    mco_coro *co = NULL;
    mco_desc description = mco_desc_init(body, 0);
    CHECK(mco_create(&co, &description) == MCO_SUCCESS);
    CHECK(mco_resume(co) == MCO_SUCCESS);
    CHECK(mco_status(co) == MCO_SUSPENDED && exeunt_get(&key) == NULL);
    return co;
}

static void a_coroutine_is_drained_when_its_function_returns(void) {
    destroyed = handled = 0;
    mco_coro *co = created();
    CHECK(mco_resume(co) == MCO_SUCCESS);
    CHECK(mco_status(co) == MCO_DEAD && destroyed == 1 && handled == 1);
    CHECK(mco_destroy(co) == MCO_SUCCESS);
}

static void a_suspended_one_is_drained_by_discard(void) {
    destroyed = handled = 0;
    mco_coro *co = created();
    CHECK(exeunt_discard(co->stack_base, (char *)co->stack_base + co->stack_size) == EXEUNT_OK);
    CHECK(destroyed == 1 && handled == 1);
    CHECK(mco_destroy(co) == MCO_SUCCESS);
}

int main(void) {
    const char *wrapper = (const char *)(uintptr_t)_mco_main;
    CHECK(exeunt_register_trampoline("_mco_main", wrapper, end_of(wrapper)) == EXEUNT_OK);
    RUN(a_coroutine_is_drained_when_its_function_returns);
    RUN(a_suspended_one_is_drained_by_discard);
    return 0;
}
