/* exeunt.h */
#ifndef EXEUNT_H
#define EXEUNT_H

#include <stddef.h>
#include <stdint.h>

#define EXEUNT_VERSION_MAJOR @MAJOR@
#define EXEUNT_VERSION_MINOR @MINOR@
#define EXEUNT_VERSION_PATCH @PATCH@
#define EXEUNT_VERSION "@VERSION@"

#ifdef __cplusplus
extern "C" {
#endif

//@ types

//@ handlers

//@ values

//@ slots

//@ fibers

//@ scope

//@ patch

//@ code

#ifdef __cplusplus
} // extern "C"
#endif

#endif // EXEUNT_H
