//go:build cgo && linux && (amd64 || arm64)

package cgotest

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"exeunt.invalid/exeunt"
)

func TestACallbackFromAThreadOfCEndsWhenItReturns(t *testing.T) {
	local := exeunt.NewLocal[int]()
	var ran, strange atomic.Int64
	var mu sync.Mutex
	ids := map[int64]bool{}
	callback = func(n int) {
		if _, ok := local.Lookup(); ok {
			strange.Add(1)
		}
		local.Set(n)
		exeunt.AtExit(func() {
			if local.Get() == n && exeunt.Ending() == exeunt.Returned {
				ran.Add(1)
			}
		})
		exeunt.AtExit(func() { runtime.GC() })
		id := exeunt.ID()
		mu.Lock()
		if ids[id] {
			strange.Add(1)
		}
		ids[id] = true
		mu.Unlock()
		grow(200)
		if local.Get() != n {
			strange.Add(1)
		}
		done := make(chan bool)
		exeunt.Go(func() { close(done) })
		<-done
	}
	for turn := 0; turn < 3; turn++ {
		if !onThreads(8, 20) {
			t.Fatal("threads could not be started")
		}
	}
	if ran.Load() != 480 || strange.Load() != 0 {
		t.Errorf("%d of 480 handlers ran with their values; %d values or IDs were seen twice", ran.Load(), strange.Load())
	}
}

//go:noinline
func grow(n int) byte {
	var frame [512]byte
	if n > 0 {
		frame[n%512] = grow(n - 1)
	}
	return frame[(n+1)%512]
}

func TestACallbackWithinAGoroutineEndsNothing(t *testing.T) {
	local := exeunt.NewLocal[int]()
	var order []string
	done := make(chan struct{})
	nested = func(n int) {
		if local.Get() != 42 {
			order = append(order, "another value")
		}
		exeunt.AtExit(func() { order = append(order, "registered in a callback") })
		if n > 0 {
			throughC(n - 1)
		}
	}
	go func() {
		exeunt.AtExit(func() { close(done) })
		local.Set(42)
		throughC(2)
		order = append(order, "back in Go")
		runtime.Goexit()
	}()
	<-done
	if len(order) != 4 || order[0] != "back in Go" || order[3] != "registered in a callback" {
		t.Errorf("%q", order)
	}
}

func TestACallbackFromCMayCallCAgain(t *testing.T) {
	local := exeunt.NewLocal[int]()
	var ran, early atomic.Int64
	nested = func(n int) {
		if n > 0 {
			throughC(n - 1)
		}
	}
	callback = func(n int) {
		local.Set(n)
		exeunt.AtExit(func() { ran.Add(1) })
		throughC(3)
		if local.Get() != n || ran.Load() != int64(n) {
			early.Add(1) // an inner callback's return was taken for the end
		}
	}
	if !onThreads(1, 10) {
		t.Fatal("threads could not be started")
	}
	if ran.Load() != 10 || early.Load() != 0 {
		t.Errorf("%d of 10 handlers ran, %d of them early", ran.Load(), early.Load())
	}
}

func TestPanicsOfCallbacksPassThroughC(t *testing.T) {
	var recovered any
	ran := false
	done := make(chan struct{})
	nested = func(int) {
		exeunt.AtExit(func() { ran = true })
		panic("through C")
	}
	go func() {
		exeunt.AtExit(func() { close(done) })
		defer func() { recovered = recover() }()
		throughC(0)
	}()
	<-done
	if recovered != "through C" || !ran {
		t.Errorf("recovered %v, ran %v", recovered, ran)
	}
}
