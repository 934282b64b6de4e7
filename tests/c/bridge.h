// The functions of exeunt that the C and C++ programs of the tests call: tests/bridge/src/lib.rs.
#ifndef EXEUNT_BRIDGE_H
#define EXEUNT_BRIDGE_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

// Each `int` is 0 or a result, or negative: refused, with the reason on standard error.
int bridge_at_exit(void (*function)(void *), void *argument);
int bridge_attempt(void (*function)(void *)); // 0 armed, 1 has ended, 2 too early, 3 refused otherwise
int bridge_panic_at_exit(void);
int bridge_set(uint64_t key, uint64_t value);
int bridge_set_dropped(uint64_t key, void (*function)(void *), void *argument);
int bridge_has(uint64_t key);
uint64_t bridge_get(uint64_t key, uint64_t otherwise);
uint64_t bridge_swap_local(uint64_t value);
uint64_t bridge_id(void);
int bridge_unload(void);
int bridge_is_armed(void);
const char *bridge_ending(void); // the variant's name, or "None"
int bridge_returned_value(uintptr_t *value); // 1 where there is one, otherwise 0

// Kinds as below.
int bridge_on_every_end(void (*function)(int kind, const char *ending, int has_value, uintptr_t value, int armed));
int bridge_stop_every_end(void);
int bridge_restore_code_sites(void); // 1 in use

int bridge_place(uintptr_t *foot, uintptr_t *base); // of the running stack
int bridge_arm_at(uintptr_t foot, uintptr_t base, void (*function)(void *), void *argument);
int bridge_reserve(uintptr_t foot, uintptr_t base, void (*function)(void *), void *argument);
int bridge_arm_reserved(void); // takes the reservation, also where it fails

struct bridge_foot {
    uintptr_t address, word, original;
    int kind; // 1 thread, 2 main, 3 fiber
};
int bridge_foot(struct bridge_foot *foot);
int bridge_enter(void (*function)(void *), void *argument);
void bridge_tagged(uint64_t tag, void (*function)(void *), void *argument);
uint64_t bridge_tag(uint64_t otherwise);
int bridge_register(const char *name, uintptr_t start, uintptr_t end);
size_t bridge_walk(uintptr_t *addresses, size_t room);

void bridge_panic(void); // unwinds
int bridge_catch(void (*function)(void *), void *argument);

#ifdef __cplusplus
}
#endif
#endif
