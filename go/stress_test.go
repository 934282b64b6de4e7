//go:build linux || amd64 || arm64

package exeunt

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"runtime/trace"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// collect runs the garbage collector in a loop until the function that it returns is called.
func collect() (stop func()) {
	var stopping atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; i < 1e6 && !stopping.Load(); i++ {
			runtime.GC()
		}
	}()
	return func() {
		stopping.Store(true)
		<-done
	}
}

// inUse counts the records that goroutines have, and the chunks.
func inUse() (records, held int) {
	for i := range chunks {
		if c := chunks[i].Load(); c != nil {
			held++
			c.home.Lock()
			records += c.used
			c.home.Unlock()
			if i == 0 {
				records-- // position 0 is never used
			}
		}
	}
	return records + int(atomic.LoadUint32(&common.mapped)), held
}

// eventually calls answer until it returns true, for at most this long, and returns the last
// result. The last goroutines may still be ending; when they get a processor depends on the
// machine.
func eventually(most time.Duration, answer func() bool) bool {
	for deadline := time.Now().Add(most); ; time.Sleep(time.Millisecond) {
		if answer() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// storm starts n goroutines, at most 1000 at a time. Each sets a value, checks it after its stack
// has grown and it has been scheduled, and ends: a third by Goexit. storm returns how often
// handlers ran, and how often a goroutine read a value that was not its own.
func storm(n int) (handlers, strange int64) {
	number := NewLocal[int]()
	text := NewLocal[*[2]int]()
	var ran, wrong atomic.Int64
	slots := make(chan struct{}, 1000)
	var wg sync.WaitGroup
	wg.Add(n)
	for i := 0; i < n; i++ {
		slots <- struct{}{}
		go func() {
			if _, ok := number.Lookup(); ok || number.Get() != 0 || text.Get() != nil {
				wrong.Add(1)
			}
			AtExit(func() {
				if number.Get() != i || text.Get()[1] != i {
					wrong.Add(1)
				}
				ran.Add(1)
				<-slots
				wg.Done()
			})
			number.Set(i)
			text.Set(&[2]int{0, i})
			if i%5 == 0 {
				deep(4+i%40, func() {
					if number.Get() != i {
						wrong.Add(1)
					}
				})
			}
			if i%4 == 0 {
				runtime.Gosched()
			}
			if text.Get()[1] != i {
				wrong.Add(1)
			}
			if i%3 == 0 {
				runtime.Goexit()
			}
		}()
	}
	wg.Wait()
	return ran.Load(), wrong.Load()
}

func TestAMillionGoroutinesUnderGarbageCollection(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n = 10_000
	}
	// Allocates what stays: the chunk that every shard keeps, the stacks of free descriptors.
	storm(2000)
	memory := func() uint64 {
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	// A goroutine may keep a chunk for ever, so this can time out.
	eventually(time.Second, func() bool {
		records, _ := inUse()
		return records == 0
	})
	recordsBefore, _ := inUse()
	before := memory()
	stop := collect()
	handlers, strange := storm(n)
	stop()
	eventually(time.Minute, func() bool {
		records, _ := inUse()
		return records <= recordsBefore
	})
	records, held := inUse()
	after := memory()
	if handlers != int64(n) {
		t.Errorf("%d handlers ran, of %d", handlers, n)
	}
	if strange != 0 {
		t.Errorf("%d times a goroutine found a value that was not its own", strange)
	}
	if records > recordsBefore {
		t.Errorf("%d records are in use, %d were before", records, recordsBefore)
	}
	if !useMap && held > 2*len(shards) {
		t.Errorf("%d chunks are held by %d shards", held, len(shards))
	}
	if after > before+8<<20 {
		t.Errorf("%d KiB in use, before it were %d", after>>10, before>>10)
	}
}

func TestManyGoroutinesAtOnceGiveTheirMemoryBack(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 5_000
	}
	local := NewLocal[int]()
	var ran atomic.Int64
	var ready, wg sync.WaitGroup
	ready.Add(n)
	wg.Add(n)
	release := make(chan struct{})
	for i := 0; i < n; i++ {
		go func() {
			local.Set(i)
			AtExit(func() {
				if local.Get() == i {
					ran.Add(1)
				}
				wg.Done()
			})
			ready.Done()
			<-release
		}()
	}
	ready.Wait()
	if records, held := inUse(); records < n || !useMap && held < n/chunkRecords {
		t.Errorf("%d records in %d chunks for %d goroutines", records, held, n)
	}
	close(release)
	wg.Wait()
	if ran.Load() != int64(n) {
		t.Errorf("%d handlers ran with their goroutine's value, of %d", ran.Load(), n)
	}
	given := eventually(time.Minute, func() bool {
		records, held := inUse()
		return records < 10 && held <= 2*len(shards)
	})
	if !given {
		records, held := inUse()
		t.Errorf("%d records in %d chunks remain", records, held)
	}
}

func TestValuesStayWhenTheStackGrowsAndShrinks(t *testing.T) {
	local := NewLocal[int]()
	ended(func() {
		local.Set(42)
		id := ID()
		for i := 0; i < 20; i++ {
			deep(1000, func() {
				if local.Get() != 42 || ID() != id {
					t.Error("lost when the stack grew")
				}
			})
			runtime.GC() // shrinks it
			if local.Get() != 42 || ID() != id {
				t.Error("lost when the stack shrank")
			}
		}
	})
}

func TestGoroutinesEndUnderProfilingAndTracing(t *testing.T) {
	var profile, events bytes.Buffer
	runtime.SetCPUProfileRate(1000)
	// StartCPUProfile prints that the rate is already set, and keeps it.
	if err := pprof.StartCPUProfile(&profile); err != nil {
		t.Fatal(err)
	}
	if err := trace.Start(&events); err != nil {
		pprof.StopCPUProfile()
		t.Fatal(err)
	}
	n, rounds := 20_000, 0
	if testing.Short() {
		n = 2_000
	}
	// A tenth of a second of processor time gives a hundred samples. The number of rounds that this
	// takes depends on the machine.
	began := processorTime(t)
	for ; rounds < 2 || rounds < 500 && processorTime(t)-began < 100*time.Millisecond; rounds++ {
		if handlers, strange := storm(n); handlers != int64(n) || strange != 0 {
			t.Errorf("%d handlers ran, of %d; %d strange values", handlers, n, strange)
		}
	}
	trace.Stop()
	pprof.StopCPUProfile()
	// The format is not decoded here, but it contains the names of all sampled functions as plain
	// text.
	unpacked, err := gzip.NewReader(&profile)
	if err != nil {
		t.Fatal(err)
	}
	names, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(names, []byte("exeunt.storm")) {
		t.Errorf("no sample of exeunt.storm in a profile of %d bytes after %d rounds", len(names), rounds)
	}
	if !bytes.HasPrefix(events.Bytes(), []byte("go 1.")) || events.Len() < n {
		t.Errorf("a trace of %d bytes", events.Len())
	}
}

func TestManyGoroutinesInstallAtOnce(t *testing.T) {
	code, output := child(t, "install")
	want(t, code, output, 0, "10000 handlers ran\nthe scenario returned\n")
}

func init() {
	scenarios["install"] = func() {
		// The calls are redirected while other goroutines make them.
		collectUnlessInCodeMode()
		var stopping atomic.Bool
		for i := 0; i < 4; i++ {
			go func() {
				for i := 0; i < 1e8 && !stopping.Load(); i++ {
					done := make(chan struct{})
					go func() { defer close(done); runtime.Goexit() }()
					<-done
				}
			}()
		}
		var ran atomic.Int64
		var wg sync.WaitGroup
		for i := 0; i < 10_000; i++ {
			wg.Add(1)
			go func() {
				AtExit(func() { ran.Add(1); wg.Done() })
				if i%2 == 0 {
					runtime.Goexit()
				}
			}()
		}
		wg.Wait()
		stopping.Store(true)
		fmt.Println(ran.Load(), "handlers ran")
	}
}
