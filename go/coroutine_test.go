//go:build go1.23 && (linux || amd64 || arm64)

package exeunt

import (
	"iter"
	"runtime"
	"sort"
	"testing"
)

// The race detector sees iter.Pull's own synchronization, which comes before the coroutine's end.
// What handlers write needs a lock (journal has one).

func TestCoroutinesEndWithTheirHandlers(t *testing.T) {
	for name, use := range map[string]func(next func() (int, bool), stop func()){
		"returned": func(next func() (int, bool), stop func()) { next(); next(); next() },
		"stopped":  func(next func() (int, bool), stop func()) { next(); stop() },
	} {
		t.Run(name, func(t *testing.T) {
			var j journal
			local := NewLocal[string]()
			local.Set("of the caller")
			next, stop := iter.Pull(func(yield func(int) bool) {
				if _, ok := local.Lookup(); ok {
					j.add("a value of the caller")
				}
				local.Set("of the coroutine")
				AtExit(func() { j.add("first with a value " + local.Get()) })
				AtExit(func() {
					defer j.add("second")
					runtime.Goexit()
				})
				AtExit(func() {
					// A handler may run coroutines of its own.
					next, stop := iter.Pull(func(yield func(int) bool) { yield(7) })
					defer stop()
					if v, ok := next(); v != 7 || !ok {
						j.add("a coroutine in a handler fails")
					}
					runtime.GC()
				})
				AtExit(func() { deep(100, func() {}) })
				_ = yield(1) && yield(2)
			})
			use(next, stop)
			if InForce() != Code {
				waitUntil(t, func() bool { return j.length() == 2 })
			}
			j.want(t, "second", "first with a value of the coroutine")
			if local.Get() != "of the caller" {
				t.Error("the caller's value is", local.Get())
			}
			local.Del()
		})
	}
}

func TestCoroutinesMayPanicAndCallGoexit(t *testing.T) {
	var j journal
	if value := panics(func() {
		next, _ := iter.Pull(func(func(int) bool) {
			AtExit(func() { j.add("after a panic") })
			panic("out of the coroutine")
		})
		next()
	}); value != "out of the coroutine" {
		t.Error(value)
	}
	ended(func() {
		next, _ := iter.Pull(func(func(int) bool) {
			AtExit(func() { j.add("after Goexit") })
			runtime.Goexit()
		})
		next()
		t.Error("Goexit in a coroutine ends its caller too")
	})
	if InForce() != Code {
		waitUntil(t, func() bool { return j.length() == 2 })
	}
	j.Lock()
	sort.Strings(j.lines) // in slot mode each has a goroutine of its own
	j.Unlock()
	j.want(t, "after Goexit", "after a panic")
}

func TestCoroutinesKnowHowTheyEnd(t *testing.T) {
	var j journal
	for _, end := range []func(){func() {}, runtime.Goexit, func() { panic(1) }} {
		ended(func() {
			defer func() { _ = recover() }()
			next, stop := iter.Pull(func(yield func(int) bool) {
				AtExit(func() { j.add(Ending().String()) })
				yield(1)
				end()
			})
			defer stop()
			next()
			next()
		})
	}
	if InForce() != Code {
		waitUntil(t, func() bool { return j.length() == 3 })
		end := asNoticed(Exited).String() // the collector does not say more
		j.want(t, end, end, end)
		return
	}
	j.want(t, "returned", "exited", "returned")
}

func TestManyCoroutines(t *testing.T) {
	stop := collect()
	defer stop()
	var j journal
	const n = 2000
	for i := 0; i < n; i++ {
		next, stop := iter.Pull(func(yield func(int) bool) {
			AtExit(func() { j.add("") })
			yield(i)
		})
		if v, _ := next(); v != i {
			t.Fatal(v)
		}
		stop()
	}
	if InForce() != Code {
		waitUntil(t, func() bool { return j.length() == n })
	}
	j.Lock()
	defer j.Unlock()
	if len(j.lines) != n {
		t.Errorf("%d of %d handlers ran", len(j.lines), n)
	}
}
