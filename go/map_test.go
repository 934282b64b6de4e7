//go:build linux || amd64 || arm64

package exeunt

import (
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// The fallback has to do all that the spare words do, so the whole suite runs again with it.
func TestAllOfThisWithTheMap(t *testing.T) {
	needsCodeMode(t)
	if forceMap {
		if !useMap {
			t.Error("the map was to be used")
		}
		return
	}
	if useMap {
		t.Fatal("the spare words of goroutines' stacks could not be verified")
	}
	code, output := binary(t, []string{mapVariable + "=1"}, os.Args[0], "-test.short", "-test.v")
	if code != 0 || !strings.Contains(output, "--- PASS: TestAMillionGoroutines") {
		t.Errorf("exit code %d:\n%s", code, output)
	}
}

// Goroutines beyond the table's two million records get one in the map, while the others keep
// theirs.
func TestGoroutinesBeyondTheTableUseTheMap(t *testing.T) {
	if useMap {
		return // they use it anyway
	}
	local := NewLocal[int]()
	far := NewLocal[[3]int]()
	// Goroutines of an earlier test that are still ending release their records.
	eventually(time.Second, func() bool {
		records, _ := inUse()
		return records == 0
	})
	local.Set(1)
	defer local.Del()
	chunkNumbers.Lock()
	next, free := chunkNumbers.next, chunkNumbers.free
	chunkNumbers.next, chunkNumbers.free = maxChunks, nil
	chunkNumbers.Unlock()
	taken := fill()
	defer func() {
		chunkNumbers.Lock()
		chunkNumbers.next, chunkNumbers.free = next, append(free, chunkNumbers.free...)
		chunkNumbers.Unlock()
	}()
	defer taken()
	for i := 0; i < 100; i++ {
		end := func() {}
		if i%3 == 0 {
			end = runtime.Goexit
		}
		ran := false
		ended(func() {
			AtExit(func() { ran = local.Get() == i && far.Get()[2] == i })
			local.Set(i)
			far.Set([3]int{2: i})
			if lookup().index != 0 || atomic.LoadUint32(&common.mapped) == 0 {
				t.Error("there was a place in the table")
			}
			end()
		})
		if !ran {
			t.Fatal("the handler has not run with its values")
		}
		if local.Get() != 1 {
			t.Fatal("this goroutine has lost its value")
		}
	}
}

// fill takes every free record of the table.
func fill() (giveBack func()) {
	var all []*record
	for i := range shards {
		home := &shards[i]
		for {
			home.Lock()
			empty := len(home.room) == 0
			home.Unlock()
			if empty {
				break
			}
			// allocate chooses the shard by the descriptor's address, so any address of that shard
			// will do.
			for g := uintptr(1); ; g++ {
				if &shards[uint64(g)*0x9e3779b97f4a7c15>>32&uint64(len(shards)-1)] == home {
					all = append(all, allocate(g))
					break
				}
			}
		}
	}
	return func() {
		for _, r := range all {
			r.owner.Store(1)
			freeRecord(r)
		}
	}
}
