// Package object links the patch engine's object into programs that are built with -msan. From such
// builds the go command leaves out every .syso file, since it cannot know whether the memory
// sanitizer has instrumented it. The engine needs no instrumentation: it reads only its own stack,
// what it reads from the kernel, and code.
//
// It is a package of its own because a package with cgo cannot have Go's assembly.
package object
