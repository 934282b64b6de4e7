//go:build linux && (amd64 || arm64 || riscv64)

package exeunt

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func init() {
	// Without a collection no other end by Goexit is noticed.
	scenarios["go first"] = func() {
		done := make(chan End, 1)
		Go(func() {
			AtExit(func() { done <- Ending() })
			runtime.Goexit()
		})
		select {
		case end := <-done:
			fmt.Println(end)
		case <-time.After(10 * time.Second):
			fmt.Println("not noticed")
		}
	}
	scenarios["a stale record"] = func() { staleRecord(Slot) }
	scenarios["a stale record in collected mode"] = func() { staleRecord(Collected) }
	scenarios["a foot that is not recognised"] = func() {
		if err := Install(Slot); err != nil {
			fmt.Println(err)
		}
		exitAddress++ // every foot now holds another word than is expected
		defer func() { exitAddress-- }()
		fmt.Println(panics(func() { AtExit(func() { fmt.Println("runs") }) }) == any(errFoot), lookup() == nil)
	}
	scenarios["storm in slot mode"] = func() {
		if err := Install(Slot); err != nil {
			fmt.Println(err)
		}
		collectUnlessInCodeMode()
		handlers, strange := storm(20_000)
		fmt.Println(handlers, strange)
		eventually(10*time.Second, func() bool { records, _ := inUse(); return records == 0 })
		records, _ := inUse()
		fmt.Println(records, "records are left")
	}
}

const inMode = "EXEUNT_MODE="

// Slot mode needs the spare words.
const withoutMap = mapVariable + "="

func TestGoNoticesAGoexitInSlotModeAlsoWhenItIsTheFirstUse(t *testing.T) {
	code, output := child(t, "go first", inMode+"slot", withoutMap, "GOGC=off")
	want(t, code, output, 0, "exited\nthe scenario returned\n")
}

func TestSlotModeRefusesAFootThatItDoesNotRecognise(t *testing.T) {
	code, output := child(t, "a foot that is not recognised", inMode, withoutMap)
	want(t, code, output, 0, "true true\nthe scenario returned\n")
}

func TestAStormInSlotMode(t *testing.T) {
	code, output := child(t, "storm in slot mode", inMode, withoutMap)
	want(t, code, output, 0, "20000 0\n0 records are left\nthe scenario returned\n")
}

// staleRecord lets a goroutine end by Goexit, and checks that no goroutine after it sees its values
// while the collector has not noticed that end. Most of these have the same descriptor and stack.
func staleRecord(m Mode) {
	if err := Install(m); err != nil {
		fmt.Println(err)
	}
	// No collection comes by itself meanwhile.
	local, text := NewLocal[int](), NewLocal[string]()
	runtime.GOMAXPROCS(1)
	var ran, descriptorsAgain atomic.Int64
	var seen sync.Map
	run := func(body func()) {
		var wg sync.WaitGroup
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, again := seen.LoadOrStore(getg(), true); again {
				descriptorsAgain.Add(1)
			}
			if _, ok := local.Lookup(); ok || local.Get() != 0 || text.Get() != "" || lookup() != nil || Ending() != Running {
				fmt.Println("a goroutine sees what an earlier one has left")
			}
			body()
		}()
		wg.Wait()
	}
	const n = 500
	for i := 1; i <= n; i++ {
		run(func() {
			id := ID()
			local.Set(i)
			text.Set(fmt.Sprint(i))
			AtExit(func() {
				if local.Get() != i || text.Get() != fmt.Sprint(i) || ID() != id || Ending() != asNoticed(Exited) {
					fmt.Println("a late handler does not have its goroutine's values")
				}
				ran.Add(1)
			})
			runtime.Goexit()
		})
		run(func() {})
		run(func() { local.Set(-i); Unload() })
	}
	fmt.Println("descriptors were used again:", descriptorsAgain.Load() > n)
	listed := 0
	Goroutines()(func(g Goroutine) bool {
		if g.ID > 0 {
			listed++
		}
		return true
	})
	fmt.Println("few are listed that have ended:", listed < n/10)
	runtime.GOMAXPROCS(2)
	for i := 0; i < 1000 && ran.Load() < n; i++ {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	time.Sleep(10 * time.Millisecond) // for handlers that run twice
	fmt.Println("late handlers:", ran.Load())
}

func TestNoGoroutineSeesTheValuesOfOneWhoseEndIsNotNoticedYet(t *testing.T) {
	code, output := child(t, "a stale record", inMode, withoutMap, "GOGC=off")
	want(t, code, output, 0, "descriptors were used again: true\nfew are listed that have ended: true\nlate handlers: 500\nthe scenario returned\n")
}

func TestNoGoroutineSeesTheValuesOfOneThatHasEndedInCollectedMode(t *testing.T) {
	code, output := child(t, "a stale record in collected mode", inMode, withoutMap, "GOGC=off")
	want(t, code, output, 0, "descriptors were used again: true\nfew are listed that have ended: true\nlate handlers: 500\nthe scenario returned\n")
}
