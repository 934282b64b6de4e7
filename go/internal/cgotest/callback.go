//go:build cgo

package cgotest

/*
#cgo LDFLAGS: -lpthread
#include <pthread.h>

extern void goCallback(int);
extern void goNested(int);

struct calls { int count, first; };

static void *run(void *argument) {
	struct calls *calls = argument;
	for (int i = 0; i < calls->count; i++)
		goCallback(calls->first + i);
	return 0;
}

// Calls goCallback count times on each of several new threads.
static int on_threads(int threads, int count) {
	pthread_t all[64];
	struct calls calls[64];
	if (threads > 64)
		return -1;
	for (int i = 0; i < threads; i++) {
		calls[i].count = count;
		calls[i].first = i * count;
		if (pthread_create(&all[i], 0, run, &calls[i]))
			return -1;
	}
	for (int i = 0; i < threads; i++)
		pthread_join(all[i], 0);
	return 0;
}

static void nested(int depth) { goNested(depth); }
*/
import "C"

// callback and nested are what the exported functions call.
var callback, nested func(n int)

//export goCallback
func goCallback(n C.int) { callback(int(n)) }

//export goNested
func goNested(n C.int) { nested(int(n)) }

// onThreads calls callback on this number of threads created by C, each of them several times.
func onThreads(threads, times int) bool { return C.on_threads(C.int(threads), C.int(times)) == 0 }

// throughC calls nested(n) through C, on the running goroutine.
func throughC(n int) { C.nested(C.int(n)) }
