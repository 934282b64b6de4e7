// Package kinds tests programs that the go command builds in rarer ways, each as a program of its
// own: with sanitizers, with a profile, as libraries, as a plugin, and under gdb. go/check says
// which:
//
//	go test ./internal/kinds -kinds asan,pgo,c-shared,c-archive,plugin,gdb
//
// Without the flag nothing is built, as most of these build the standard library anew. The kind msan
// needs CC=clang.
package kinds
