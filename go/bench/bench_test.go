// Package bench measures exeunt and its peers in one process:
//
//	go test -bench . -count 5
//
// The cost to a goroutine that uses nothing is too small to be seen that way; see overhead in
// measure.
package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"exeunt.invalid/exeunt"
	"github.com/jtolds/gls"
	"github.com/timandy/routine"
)

var (
	local   = exeunt.NewLocal[int]()
	pointer = exeunt.NewLocal[*int]()
	text    = exeunt.NewLocal[string]()

	routineLocal = routine.NewThreadLocal[int]()
	manager      = gls.NewContextManager()
	glsKey       = gls.GenSym()
	table        sync.Map // from the goroutine's number
)

type contextKey struct{}

func check(b *testing.B, got int) {
	if got != 42 {
		b.Fatalf("read %d instead of 42", got)
	}
}

func BenchmarkGet(b *testing.B) {
	b.Run("exeunt", func(b *testing.B) {
		local.Set(42)
		for i := 0; i < b.N; i++ {
			check(b, local.Get())
		}
	})
	b.Run("exeunt-pointer", func(b *testing.B) {
		value := 42
		pointer.Set(&value)
		for i := 0; i < b.N; i++ {
			check(b, *pointer.Get())
		}
	})
	b.Run("exeunt-string", func(b *testing.B) {
		text.Set("forty-two")
		for i := 0; i < b.N; i++ {
			if len(text.Get()) != 9 {
				b.Fatal("another string")
			}
		}
	})
	b.Run("routine", func(b *testing.B) {
		routineLocal.Set(42)
		for i := 0; i < b.N; i++ {
			check(b, routineLocal.Get())
		}
	})
	b.Run("gls", func(b *testing.B) {
		manager.SetValues(gls.Values{glsKey: 42}, func() {
			for i := 0; i < b.N; i++ {
				v, _ := manager.GetValue(glsKey)
				check(b, v.(int))
			}
		})
	})
	b.Run("sync.Map", func(b *testing.B) {
		table.Store(routine.Goid(), 42)
		for i := 0; i < b.N; i++ {
			v, _ := table.Load(routine.Goid())
			check(b, v.(int))
		}
	})
	b.Run("context", func(b *testing.B) {
		ctx := context.WithValue(context.Background(), contextKey{}, 42)
		for i := 0; i < b.N; i++ {
			check(b, ctx.Value(contextKey{}).(int))
		}
	})
}

func BenchmarkSet(b *testing.B) {
	b.Run("exeunt", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			local.Set(i)
		}
	})
	b.Run("exeunt-pointer", func(b *testing.B) {
		b.ReportAllocs()
		value := 42
		for i := 0; i < b.N; i++ {
			pointer.Set(&value)
		}
	})
	b.Run("exeunt-string", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			text.Set("forty-two")
		}
	})
	b.Run("routine", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			routineLocal.Set(i)
		}
	})
	b.Run("routine-small", func(b *testing.B) { // small integers need no allocation in an interface
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			routineLocal.Set(42)
		}
	})
	b.Run("sync.Map", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; i < b.N; i++ {
			table.Store(routine.Goid(), i)
		}
	})
}

// spawn repeatedly starts a goroutine and waits for it.
func spawn(b *testing.B, body func()) {
	b.ReportAllocs()
	done := make(chan struct{})
	run := func() {
		body()
		done <- struct{}{}
	}
	for i := 0; i < b.N; i++ {
		go run()
		<-done
	}
}

func BenchmarkSpawn(b *testing.B) {
	handler := func() {}
	b.Run("nothing", func(b *testing.B) { spawn(b, handler) })
	b.Run("exeunt-set", func(b *testing.B) { spawn(b, func() { local.Set(42) }) })
	b.Run("exeunt-set-and-handler", func(b *testing.B) {
		spawn(b, func() {
			local.Set(42)
			exeunt.AtExit(handler)
		})
	})
	b.Run("routine-set", func(b *testing.B) { spawn(b, func() { routineLocal.Set(42) }) })
	b.Run("sync.Map-set-and-defer", func(b *testing.B) {
		spawn(b, func() {
			id := routine.Goid()
			table.Store(id, 42)
			defer table.Delete(id)
		})
	})
}

// BenchmarkParallel reads on n goroutines at once. ns/op is per read: without a shared lock, n=2
// takes half as long as n=1.
func BenchmarkParallel(b *testing.B) {
	for n := 1; n <= runtime.NumCPU(); n++ {
		b.Run(string(rune('0'+n)), func(b *testing.B) {
			var wg sync.WaitGroup
			for g := 0; g < n; g++ {
				wg.Add(1)
				go func() {
					defer wg.Done()
					local.Set(42)
					for i := 0; i < b.N/n; i++ {
						check(b, local.Get())
					}
				}()
			}
			wg.Wait()
		})
	}
}

// BenchmarkModes measures each mode in processes of its own.
func BenchmarkModes(b *testing.B) {
	for _, mode := range []string{"code", "slot", "collected"} {
		for _, what := range []string{"Get", "Set", "Spawn"} {
			name := "exeunt"
			if what == "Spawn" {
				name = "exeunt-set"
			}
			b.Run(what+"/"+mode, func(b *testing.B) {
				child := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^Benchmark"+what+"$/^"+name+"$", fmt.Sprintf("-test.benchtime=%dx", b.N))
				child.Env = append(os.Environ(), "EXEUNT_MODE="+mode)
				output, err := child.CombinedOutput()
				figure := nanoseconds.FindSubmatch(output)
				if err != nil || figure == nil {
					b.Fatalf("%v\n%s", err, output)
				}
				ns, _ := strconv.ParseFloat(string(figure[1]), 64)
				b.ReportMetric(ns, "ns/op")
			})
		}
	}
}

var nanoseconds = regexp.MustCompile(`([0-9.]+) ns/op`)
