/* Retarget a direct call or branch in running code (Linux on x86_64 and aarch64).
 *
 * Every function returns 0, or the reason why nothing changed: one of the numbers below in the low 8 bits, and the
 * kernel's error number above them where a system call was refused. */
#ifndef EXEUNT_PATCH_H
#define EXEUNT_PATCH_H

#ifdef __cplusplus
extern "C" {
#endif

enum exeunt_patch_reason {
    EXEUNT_NOT_A_BRANCH = 1,     /* no direct call or branch at the site */
    EXEUNT_OTHER_TARGET = 2,     /* it does not lead to the expected target */
    EXEUNT_NOT_EXECUTABLE = 5,   /* the site is not mapped readable and executable */
    EXEUNT_NO_MAPS = 6,          /* /proc/self/maps cannot be read */
    EXEUNT_PROTECT = 7,          /* the code page cannot be written */
    EXEUNT_MEMBARRIER = 8,       /* membarrier is refused */
    EXEUNT_CHANGED = 9,          /* somebody else changed the bytes */
    EXEUNT_NOT_RESTORED = 10,    /* bytes as before, but the page is still writable */
    EXEUNT_NO_ROOM = 19,         /* no free page for a relay in reach */
    EXEUNT_STUB_TAKEN = 20,      /* another thread mapped the page meanwhile: try again */
    EXEUNT_STUB = 21,            /* mmap or mprotect of a relay's page was refused */
    EXEUNT_ALREADY_APPLIED = 22,
    EXEUNT_NOT_APPLIED = 23,     /* undo: nothing was redirected at this site */
    EXEUNT_OVERLAPS = 24,        /* a patch is applied here already */
    EXEUNT_PANICKED = 255        /* a bug in the library */
};

/* Makes the direct call or branch at `site` lead to `new_target` instead of `expected_target`.
 * The caller promises that `site` is the first byte of an instruction whose code stays mapped, that `new_target` may be
 * entered wherever `expected_target` may be, and that nobody else changes the page's protection meanwhile. */
int exeunt_redirect_call(void *site, const void *expected_target, const void *new_target);

/* Takes that back. */
int exeunt_undo_redirect_call(void *site);

#ifdef __cplusplus
}
#endif
#endif
