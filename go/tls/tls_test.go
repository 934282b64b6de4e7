//go:build linux || amd64 || arm64

package tls_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"exeunt.invalid/exeunt"
	"exeunt.invalid/exeunt/tls"
)

func TestMain(m *testing.M) {
	if err := exeunt.Install(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if exeunt.InForce() == exeunt.Collected {
		go func() {
			for {
				runtime.GC() // which notices the ends
				time.Sleep(time.Millisecond)
			}
		}()
	}
	os.Exit(m.Run())
}

// ended runs body on a goroutine, and returns when the goroutine has ended.
func ended(body func()) {
	done := make(chan struct{})
	go func() {
		tls.Set("the last to be closed", tls.MakeData(closer(func() error { close(done); return nil })))
		body()
	}()
	<-done
}

type closer func() error

func (c closer) Close() error { return c() }

type key struct{ name string }

func TestDataIsEachGoroutinesOwn(t *testing.T) {
	var wg sync.WaitGroup
	for i := 0; i < 100; i++ {
		wg.Add(1)
		go func() {
			tls.AtExit(wg.Done)
			if _, ok := tls.Get(key{"k"}); ok {
				t.Error("another goroutine's data")
			}
			tls.Set(key{"k"}, tls.MakeData(i))
			tls.Set("other", tls.MakeData("text"))
			runtime.Gosched()
			if d, ok := tls.Get(key{"k"}); !ok || d.Value().(int) != i {
				t.Error("other data")
			}
			tls.Del(key{"k"})
			tls.Del("never set")
			if d, ok := tls.Get(key{"k"}); ok || d != nil {
				t.Error("data after Del")
			}
			tls.Set(key{"k"}, tls.MakeData(-i))
			if d, ok := tls.Get(key{"k"}); !ok || d.Value() != -i {
				t.Error("no data after Del and Set")
			}
		}()
	}
	wg.Wait()
}

func TestDataIsClosedTheNewestFirstAtTheEndByResetAndByUnload(t *testing.T) {
	var order []string
	data := func(name string) tls.Data {
		return tls.MakeData(closer(func() error { order = append(order, name); return nil }))
	}
	ended(func() {
		tls.Set(1, data("one"))
		tls.Set(2, data("two"))
		tls.Set(1, data("one again")) // replaces one, and does not close it
		tls.Set(3, data("three"))
		tls.Del(3)
		tls.AtExit(func() {
			if d, ok := tls.Get(2); ok && d != nil {
				order = append(order, "handler")
			}
		})
	})
	kept := make(chan struct{})
	go func() {
		tls.Set(1, data("reset"))
		tls.AtExit(func() { order = append(order, "kept handler"); close(kept) })
		tls.Reset()
	}()
	<-kept
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		id := tls.ID()
		tls.Set(1, data("unloaded"))
		tls.AtExit(func() { order = append(order, "unloaded handler") })
		tls.Unload()
		if id == 0 || tls.ID() == id {
			t.Error("the same ID after Unload")
		}
	}()
	<-finished
	if got := strings.Join(order, ", "); got != "handler, two, one again, reset, kept handler, unloaded" {
		t.Error(got)
	}
}

func TestMakeDataClosesOnce(t *testing.T) {
	n := 0
	d := tls.MakeData(closer(func() error { n++; return errors.New("closed") }))
	if err := d.Close(); err == nil || d.Close() != nil || n != 1 {
		t.Errorf("closed %d times, first with %v", n, err)
	}
	if d := tls.MakeData(5); d.Close() != nil || d.Value() != 5 {
		t.Error("data without a Close")
	}
}

func TestCloseMayUseStorageFailAndPanic(t *testing.T) {
	var mu sync.Mutex
	var reports []string
	exeunt.OnPanic(func(value any, _ []byte) {
		mu.Lock()
		reports = append(reports, fmt.Sprint(value))
		mu.Unlock()
	})
	defer exeunt.OnPanic(nil)
	var order []string
	ended(func() {
		for i := 0; i < 300; i++ {
			tls.Set(i, tls.MakeData(closer(func() error {
				if d, ok := tls.Get("the last to be closed"); !ok || d == nil {
					order = append(order, "missing")
				}
				switch i {
				case 7:
					tls.Set("new", tls.MakeData(closer(func() error { order = append(order, "new"); return nil })))
				case 8:
					return errors.New("failed")
				case 9:
					panic("panicked")
				}
				order = append(order, "")
				return nil
			})))
		}
		tls.Reset()
		// Reset has closed what ended waits for, so nothing more will come.
	})
	done := make(chan struct{})
	go func() {
		tls.AtExit(func() { close(done) })
		tls.Set("fails too", tls.MakeData(closer(func() error { return errors.New("failed beside Goexit") })))
		tls.Set("leaves", tls.MakeData(closer(func() error { runtime.Goexit(); return nil })))
		tls.Set("fails first", tls.MakeData(closer(func() error { return errors.New("failed before Goexit") })))
		tls.Reset()
	}()
	for finished := false; !finished; {
		select {
		case <-done:
			finished = true
		case <-time.After(10 * time.Millisecond):
			runtime.GC() // in slot mode it notices the end, which is a Goexit
		}
	}
	if len(order) != 299 || order[298] != "new" && !strings.Contains(strings.Join(order, ","), "new") || strings.Contains(strings.Join(order, ","), "missing") {
		t.Errorf("%d closed: %q", len(order), order)
	}
	mu.Lock()
	defer mu.Unlock()
	want := []string{"panicked", "exeunt/tls: closing a tls_test.closer: failed", "exeunt/tls: closing a tls_test.closer: failed before Goexit",
		"exeunt/tls: closing a tls_test.closer: failed beside Goexit"}
	if !slices.Equal(reports, want) {
		t.Errorf("%q", reports)
	}
}

func TestNilDataIsData(t *testing.T) {
	ended(func() {
		tls.Set("nil", nil)
		tls.Set("later", tls.MakeData(1))
		tls.Del("later")
		if d, ok := tls.Get("nil"); d != nil || !ok {
			t.Error(d, ok)
		}
		tls.Del("nil")
		if _, ok := tls.Get("nil"); ok {
			t.Error("it was deleted")
		}
	})
}

func TestDeletingAndSettingForEverNeedsNoMoreAndMoreMemory(t *testing.T) {
	ended(func() {
		data := tls.MakeData(1)
		round := func() {
			for range make([]struct{}, 100_000) {
				for _, key := range []int{1, 2, 3} {
					tls.Del(key)
					tls.Set(key, data)
				}
			}
		}
		heap := func() uint64 {
			var stats runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&stats)
			return stats.HeapAlloc
		}
		before := heap()
		round()
		if after := heap(); after > before+1<<20 {
			t.Errorf("%d bytes more for three keys", after-before)
		}
		for _, key := range []int{1, 2, 3} {
			if d, ok := tls.Get(key); d != data || !ok {
				t.Error(key, d, ok)
			}
		}
	})
}
