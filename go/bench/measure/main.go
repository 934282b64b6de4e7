// Command measure prints the figures that the README quotes, and whether the project's targets are met.
//
//	go run ./measure                       everything
//	go run ./measure reads overhead        some of: reads, writes, spawns, parallel, overhead
//
// Every candidate runs in many short slices, in turn with the others, and the fastest slice counts: what it takes when nothing
// disturbs, on a machine that also does something else. For a goroutine that uses nothing the redirected program is compared
// with itself before it was redirected, in alternating processes.
package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"exeunt.invalid/exeunt"
	"github.com/jtolds/gls"
	"github.com/timandy/routine"
)

type candidate struct {
	name string
	ops  int // in a slice
	run  func(ops int)
	best float64
	all  float64 // of all slices, added up
	runs int
}

func (c *candidate) mean() float64 { return c.all / float64(c.runs) }

// measure runs the candidates' slices in turn and keeps the best ns per operation of each.
func measure(turns int, candidates ...*candidate) {
	for _, c := range candidates {
		c.best, c.all, c.runs = math.Inf(1), 0, 0
	}
	for i := 0; i < turns; i++ {
		for _, c := range candidates {
			start := time.Now()
			c.run(c.ops)
			each := float64(time.Since(start).Nanoseconds()) / float64(c.ops)
			c.best = min(c.best, each)
			c.all += each
			c.runs++
		}
	}
}

var (
	local   = exeunt.NewLocal[int]()
	pointer = exeunt.NewLocal[*int]()
	text    = exeunt.NewLocal[string]()

	rival   = routine.NewThreadLocal[int]()
	manager = gls.NewContextManager()
	key     = gls.GenSym()
	table   sync.Map
	sum     int
)

type contextKey struct{}

//go:noinline
func same(value *int) *int { return value }

var byValue = same

func spawn(body func()) func(int) {
	done := make(chan struct{})
	run := func() { body(); done <- struct{}{} }
	return func(ops int) {
		for i := 0; i < ops; i++ {
			go run()
			<-done
		}
	}
}

func main() {
	parts := []struct {
		name string
		run  func()
	}{{"reads", reads}, {"writes", writes}, {"spawns", spawns}, {"parallel", parallel}, {"overhead", overhead}}
	if len(os.Args) == 3 && os.Args[1] == "child" {
		child(os.Args[2] == "redirected")
		return
	}
	fmt.Printf("%s %s/%s, %d processors\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	for _, part := range parts {
		if len(os.Args) == 1 || slices.Contains(os.Args[1:], part.name) {
			part.run()
		}
	}
	if sum < 0 { // it is there so that no read can be left out
		panic("less than nothing was read")
	}
}

func show(title string, candidates ...*candidate) {
	fmt.Println(title)
	for _, c := range candidates {
		fmt.Printf("  %-34s %8.2f ns\n", c.name, c.best)
	}
}

func target(what string, met bool) {
	word := "met   "
	if !met {
		word = "MISSED"
	}
	fmt.Printf("  %s %s\n", word, what)
}

func reads() {
	value := 42
	local.Set(42)
	pointer.Set(&value)
	text.Set("forty-two")
	rival.Set(42)
	table.Store(routine.Goid(), 42)
	ctx := context.WithValue(context.Background(), contextKey{}, 42)
	const ops = 2000
	// Each loop is written out, so that what can be inlined is.
	exeuntGet := &candidate{name: "exeunt Local[int].Get", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			sum += local.Get()
		}
	}}
	exeuntPointer := &candidate{name: "exeunt Local[*int].Get", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			sum += *pointer.Get()
		}
	}}
	exeuntText := &candidate{name: "exeunt Local[string].Get", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			sum += len(text.Get())
		}
	}}
	routineGet := &candidate{name: "timandy/routine ThreadLocal.Get", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			sum += rival.Get()
		}
	}}
	syncMap := &candidate{name: "sync.Map by goroutine", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			v, _ := table.Load(routine.Goid())
			sum += v.(int)
		}
	}}
	contextValue := &candidate{name: "context.Value", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			sum += ctx.Value(contextKey{}).(int)
		}
	}}
	glsGet := &candidate{name: "jtolds/gls GetValue", ops: 50, run: func(ops int) {
		manager.SetValues(gls.Values{key: 42}, func() {
			for i := 0; i < ops; i++ {
				v, _ := manager.GetValue(key)
				sum += v.(int)
			}
		})
	}}
	// What the loop takes, and a call in it.
	loop := &candidate{name: "the loop alone", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			sum += value
		}
	}}
	directly := &candidate{name: "a call of an empty function", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			sum += *same(&value)
		}
	}}
	indirectly := &candidate{name: "the same by a function value", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			sum += *byValue(&value)
		}
	}}
	all := []*candidate{exeuntGet, exeuntPointer, exeuntText, routineGet, syncMap, contextValue, glsGet, loop, directly, indirectly}
	measure(10000, all...)
	show("read", all...)
	fmt.Printf("  on average, not the fastest slice: Local[int] %.1f ns, context.Value %.1f, routine %.1f; an empty function %.1f, by a function value %.1f\n",
		exeuntGet.mean(), contextValue.mean(), routineGet.mean(), directly.mean(), indirectly.mean())
	target("Local[int].Get takes at most 3 ns", exeuntGet.best <= 3)
	target(fmt.Sprintf("and at most a third of routine's (%.2f)", exeuntGet.best/routineGet.best), exeuntGet.best <= routineGet.best/3)
}

func writes() {
	value := 42
	const ops = 2000
	exeuntSet := &candidate{name: "exeunt Local[int].Set", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			local.Set(i)
		}
	}}
	exeuntPointer := &candidate{name: "exeunt Local[*int].Set", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			pointer.Set(&value)
		}
	}}
	exeuntText := &candidate{name: "exeunt Local[string].Set", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			text.Set("forty-two")
		}
	}}
	routineSet := &candidate{name: "timandy/routine ThreadLocal.Set", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			rival.Set(42) // a small integer, which needs no allocation in an interface
		}
	}}
	syncMap := &candidate{name: "sync.Map by goroutine", ops: ops, run: func(ops int) {
		for i := 0; i < ops; i++ {
			table.Store(routine.Goid(), 42)
		}
	}}
	all := []*candidate{exeuntSet, exeuntPointer, exeuntText, routineSet, syncMap}
	measure(6000, all...)
	show("write", all...)
	target(fmt.Sprintf("Local[int].Set takes at most half of routine's (%.2f)", exeuntSet.best/routineSet.best), exeuntSet.best <= routineSet.best/2)
}

func spawns() {
	handler := func() {}
	const ops = 500
	nothing := &candidate{name: "nothing", ops: ops, run: spawn(handler)}
	set := &candidate{name: "exeunt Set", ops: ops, run: spawn(func() { local.Set(42) })}
	both := &candidate{name: "exeunt Set and AtExit", ops: ops, run: spawn(func() {
		local.Set(42)
		exeunt.AtExit(handler)
	})}
	routineSet := &candidate{name: "timandy/routine Set", ops: ops, run: spawn(func() { rival.Set(42) })}
	syncMap := &candidate{name: "sync.Map Store and deferred Delete", ops: ops, run: spawn(func() {
		id := routine.Goid()
		table.Store(id, 42)
		defer table.Delete(id)
	})}
	all := []*candidate{nothing, set, both, routineSet, syncMap}
	measure(600, all...)
	show("a goroutine, from go to its end", all...)
	target(fmt.Sprintf("Set and AtExit take at most 1.5 times routine's Set (%.2f)", both.best/routineSet.best), both.best <= 1.5*routineSet.best)
}

// parallel reads on one processor and on two at once: the best slice in which they ran at the same time. How much more two can do
// at all, on a machine whose two processors may be threads of one core, is told by a loop that touches no memory, and by one that calls
// and reads as Get does, but memory that no other goroutine has.
func parallel() {
	const ops = 2000
	arithmetic := func() {
		// Chains that do not wait for each other: they keep all of a core's units busy, as reads do, and leave nothing to the core's other thread.
		a, b, c, d := uint32(sum), uint32(1), uint32(2), uint32(3)
		for i := 0; i < 4*ops; i++ {
			a, b, c, d = a+7^a>>3, b+5^b>>3, c+3^c>>3, d+1^d>>3
		}
		spent.Store(a ^ b ^ c ^ d)
	}
	read := func() {
		n := 0
		for i := 0; i < ops; i++ {
			n += local.Get()
		}
		if n != 42*ops {
			panic("another goroutine's value")
		}
	}
	own := func() {
		ctx := context.WithValue(context.Background(), contextKey{}, 42)
		n := 0
		for i := 0; i < ops; i++ {
			n += ctx.Value(contextKey{}).(int)
		}
		if n != 42*ops {
			panic("another value")
		}
	}
	slice := func(goroutines int, work func()) float64 {
		var wg sync.WaitGroup
		var ready atomic.Int32
		began, ended := make([]time.Time, goroutines), make([]time.Time, goroutines)
		wg.Add(goroutines)
		for g := 0; g < goroutines; g++ {
			go func() {
				defer wg.Done()
				local.Set(42)
				ready.Add(1)
				for ready.Load() < int32(goroutines) { // all are running when they begin
				}
				began[g] = time.Now()
				work()
				ended[g] = time.Now()
			}()
		}
		wg.Wait()
		first, last := began[0], ended[0]
		for g := range began {
			if began[g].Before(first) {
				first = began[g]
			}
			if ended[g].After(last) {
				last = ended[g]
			}
		}
		return float64(last.Sub(first).Nanoseconds()) / float64(ops*goroutines)
	}
	one, two, arithmeticOne, arithmeticTwo := math.Inf(1), math.Inf(1), math.Inf(1), math.Inf(1)
	ownOne, ownTwo := math.Inf(1), math.Inf(1)
	for turn := 0; turn < 10000; turn++ {
		one, two = min(one, slice(1, read)), min(two, slice(2, read))
		arithmeticOne, arithmeticTwo = min(arithmeticOne, slice(1, arithmetic)), min(arithmeticTwo, slice(2, arithmetic))
		ownOne, ownTwo = min(ownOne, slice(1, own)), min(ownTwo, slice(2, own))
	}
	fmt.Printf("read, wall time per read\n  %-34s %8.2f ns\n  %-34s %8.2f ns\n", "on one processor", one, "on two", two)
	fmt.Printf("  %-34s %8.2f times\n", "what this machine gives arithmetic", arithmeticOne/arithmeticTwo)
	fmt.Printf("  %-34s %8.2f times\n", "and context.Value, on memory apart", ownOne/ownTwo)
	target(fmt.Sprintf("twice the throughput on two (%.2f)", one/two), one/two >= 1.9)
	shared := one / two / (ownOne / ownTwo)
	target(fmt.Sprintf("at least 0.9 of what code that shares nothing gains (%.2f)", shared), shared >= 0.9)
}

var spent atomic.Uint32

// overhead compares processes of two kinds, each with the best slice of many.
func overhead() {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	const rounds = 25
	results := map[string][]float64{}
	for round := 0; round < rounds; round++ {
		for _, kind := range []string{"untouched", "redirected"} {
			out, err := exec.Command(self, "child", kind).Output()
			if err != nil {
				panic(err)
			}
			ns, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
			if err != nil {
				panic(err)
			}
			results[kind] = append(results[kind], ns)
		}
	}
	median := func(kind string) float64 {
		all := results[kind]
		sort.Float64s(all)
		return all[len(all)/2]
	}
	untouched, redirected := median("untouched"), median("redirected")
	fmt.Printf("a goroutine that uses nothing: median of %d processes\n  %-34s %8.2f ns\n  %-34s %8.2f ns\n",
		rounds, "runtime as it is", untouched, "redirected", redirected)
	target(fmt.Sprintf("at most 2%% (%+.1f%%)", 100*(redirected/untouched-1)), redirected <= 1.02*untouched)
}

func child(redirect bool) {
	if redirect {
		if err := exeunt.Install(); err != nil {
			panic(err)
		}
	}
	c := &candidate{ops: 500, run: spawn(func() {})}
	measure(1500, c)
	fmt.Println(c.best)
}
