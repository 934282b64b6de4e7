/* Shared by the C and C++ test programs: a check that prints where it failed, and tests that print
 * their names. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            fflush(stderr);                                                                                            \
            _Exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* Runs a test, a function whose name is a sentence. */
#define RUN(test)                                                                                                      \
    do {                                                                                                               \
        test();                                                                                                        \
        printf("ok   %s\n", #test);                                                                                    \
        fflush(stdout);                                                                                                \
    } while (0)

#endif
