/* The patch engine, through exeunt.h alone: redirects a call in this program, and reverts that. */
#include "check.h"

#include <exeunt.h>
#include <string.h>

int one(void);
int two(void);
int calls_one(void);
extern char the_site[];

__attribute__((noinline)) int one(void) { return 1; }
__attribute__((noinline)) int two(void) { return 2; }

/* A function whose call is at `the_site`. */
#if defined(__x86_64__)
__asm__(".text\n"
        ".globl calls_one, the_site\n"
        "calls_one: subq $8, %rsp\n"
        "the_site: call one\n"
        "addq $8, %rsp\n"
        "ret\n");
#else
__asm__(".text\n"
        ".balign 4\n"
        ".globl calls_one, the_site\n"
        "calls_one: stp x29, x30, [sp, #-16]!\n"
        "the_site: bl one\n"
        "ldp x29, x30, [sp], #16\n"
        "ret\n");
#endif

static void a_call_is_led_elsewhere_and_back(void) {
    char before[4];
    memcpy(before, the_site, sizeof before);
    CHECK(calls_one() == 1);
    CHECK(exeunt_redirect_call(the_site, (void *)one, (void *)two) == EXEUNT_OK);
    CHECK(calls_one() == 2);
    CHECK(exeunt_undo_redirect_call(the_site) == EXEUNT_OK);
    CHECK(calls_one() == 1);
    CHECK(memcmp(before, the_site, sizeof before) == 0);
}

static void what_is_refused_changes_nothing_and_says_what_is_there(void) {
    char text[1024];
    CHECK(exeunt_redirect_call(the_site, (void *)two, (void *)one) == EXEUNT_ENO_CODE_SITE);
    CHECK(exeunt_last_error(text, sizeof text) > 0 && strstr(text, "leads to") != NULL);
    CHECK(exeunt_redirect_call((void *)calls_one, (void *)one, (void *)two) == EXEUNT_ENO_CODE_SITE);
    CHECK(exeunt_last_error(text, sizeof text) > 0 && strstr(text, "no direct call or branch") != NULL);
    CHECK(exeunt_undo_redirect_call(the_site) == EXEUNT_ENO_CODE_SITE);
    CHECK(exeunt_last_error(text, sizeof text) > 0 && strncmp(text, "nothing was redirected at", 25) == 0);
    CHECK(exeunt_undo_redirect_call(NULL) == EXEUNT_EINVALID);
    CHECK(exeunt_redirect_call(NULL, (void *)one, (void *)two) == EXEUNT_EINVALID);
    CHECK(calls_one() == 1);
}

int main(void) {
    RUN(a_call_is_led_elsewhere_and_back);
    RUN(what_is_refused_changes_nothing_and_says_what_is_there);
    return 0;
}
