// Command measure prints the figures that ../README.md quotes, and whether the project's targets
// are met.
//
//	go run ./measure                       everything
//	go run ./measure reads overhead        some of: reads, writes, spawns, parallel, overhead
//
// Every candidate runs in many short slices, in turn with the others, and the fastest slice counts:
// it is the one that the machine's other work has not disturbed. For a goroutine that uses nothing,
// the redirected program is compared with the same program before it was redirected, in alternating
// processes.
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
	ops  int // in one slice
	run  func(ops int)
	best float64
	all  float64 // sum over all slices
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
	if sum < 0 { // uses the sum, so that no read can be optimized away
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
	// Each loop is written out, so that calls can be inlined, and adds up in a register: waiting
	// for a sum in memory takes longer than a read.
	exeuntGet := &candidate{name: "exeunt Local[int].Get", ops: ops, run: func(ops int) {
		n := 0
		for i := 0; i < ops; i++ {
			n += local.Get()
		}
		sum += n
	}}
	exeuntPointer := &candidate{name: "exeunt Local[*int].Get", ops: ops, run: func(ops int) {
		n := 0
		for i := 0; i < ops; i++ {
			n += *pointer.Get()
		}
		sum += n
	}}
	exeuntText := &candidate{name: "exeunt Local[string].Get", ops: ops, run: func(ops int) {
		n := 0
		for i := 0; i < ops; i++ {
			n += len(text.Get())
		}
		sum += n
	}}
	routineGet := &candidate{name: "timandy/routine ThreadLocal.Get", ops: ops, run: func(ops int) {
		n := 0
		for i := 0; i < ops; i++ {
			n += rival.Get()
		}
		sum += n
	}}
	syncMap := &candidate{name: "sync.Map by goroutine", ops: ops, run: func(ops int) {
		n := 0
		for i := 0; i < ops; i++ {
			v, _ := table.Load(routine.Goid())
			n += v.(int)
		}
		sum += n
	}}
	contextValue := &candidate{name: "context.Value", ops: ops, run: func(ops int) {
		n := 0
		for i := 0; i < ops; i++ {
			n += ctx.Value(contextKey{}).(int)
		}
		sum += n
	}}
	glsGet := &candidate{name: "jtolds/gls GetValue", ops: 50, run: func(ops int) {
		manager.SetValues(gls.Values{key: 42}, func() {
			n := 0
			for i := 0; i < ops; i++ {
				v, _ := manager.GetValue(key)
				n += v.(int)
			}
			sum += n
		})
	}}
	// The loop itself, and the loop with a call.
	loop := &candidate{name: "the loop alone", ops: ops, run: func(ops int) {
		n := 0
		for i := 0; i < ops; i++ {
			n += value
		}
		sum += n
	}}
	directly := &candidate{name: "a call of an empty function", ops: ops, run: func(ops int) {
		n := 0
		for i := 0; i < ops; i++ {
			n += *same(&value)
		}
		sum += n
	}}
	indirectly := &candidate{name: "the same by a function value", ops: ops, run: func(ops int) {
		n := 0
		for i := 0; i < ops; i++ {
			n += *byValue(&value)
		}
		sum += n
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

// parallel compares one goroutine with two that do the same work at the same time, in turns of some
// milliseconds: how often both together do the work in the time in which one does it once. The
// middle turn counts. (The fastest slice would be misleading: the machine may have run one
// goroutine alone in it. And the machine's processors are not always equally fast, so a turn
// compares only what ran in it.) A loop that touches no memory, and one that reads memory of its
// own, show what can be expected; a counter shows the effect of sharing.
func parallel() {
	if runtime.GOMAXPROCS(0) < 2 {
		fmt.Println("two goroutines at once: not measured, there is one processor only")
		return
	}
	const ops = 5000
	arithmetic := &pair{name: "arithmetic", work: func() {
		// Independent chains keep all units of a core busy, as reads do, and leave nothing to the
		// core's other hardware thread.
		a, b, c, d := uint32(ops), uint32(1), uint32(2), uint32(3)
		for i := 0; i < ops; i++ {
			a, b, c, d = a+7^a>>3, b+5^b>>3, c+3^c>>3, d+1^d>>3
		}
		if a^b^c^d == 0 {
			panic("arithmetic")
		}
	}}
	read := &pair{name: "exeunt Local[int].Get", work: func() {
		n := 0
		for i := 0; i < ops; i++ {
			n += local.Get()
		}
		if n != 42*ops {
			panic("another goroutine's value")
		}
	}}
	own := &pair{name: "context.Value, on memory apart", work: func() {
		ctx := context.WithValue(context.Background(), contextKey{}, 42)
		n := 0
		for i := 0; i < ops; i++ {
			n += ctx.Value(contextKey{}).(int)
		}
		if n != 42*ops {
			panic("another value")
		}
	}}
	counter := &pair{name: "a counter that they share", work: func() {
		for i := 0; i < ops; i++ {
			shared.Add(1)
		}
	}}
	all := []*pair{read, own, arithmetic, counter}
	for turn := 0; turn < 201; turn++ {
		for _, p := range all {
			p.turns = append(p.turns, gain(p.work))
		}
	}
	fmt.Println("what two goroutines do in the time in which one does it once")
	for _, p := range all {
		fmt.Printf("  %-34s %8.2f times (the middle half of all turns: %.2f to %.2f)\n", p.name, p.gains(2), p.gains(1), p.gains(3))
	}
	target(fmt.Sprintf("two processors read twice as much as one (%.2f)", read.gains(2)), read.gains(2) >= 1.9)
	quotient := read.gains(2) / own.gains(2)
	target(fmt.Sprintf("at least 0.9 of what code that shares nothing gains (%.2f)", quotient), quotient >= 0.9)
}

var shared atomic.Uint64

// pair is work for one goroutine and for two.
type pair struct {
	name  string
	work  func()
	turns []float64 // what two goroutines gained in each turn
}

// gains returns the given quartile of the turns' gains.
func (p *pair) gains(quarter int) float64 {
	slices.Sort(p.turns)
	return p.turns[(len(p.turns)-1)*quarter/4]
}

// gain returns how often two goroutines do the work while one does it once.
func gain(work func()) float64 {
	alone := each(slicesOf(work, 1)[0], nil)
	two := slicesOf(work, 2)
	return alone/each(two[0], two[1]) + alone/each(two[1], two[0])
}

// each returns the average time of a slice in ns, of those in which the other goroutine was running
// too.
func each(taken, other []slice) float64 {
	all, count := time.Duration(0), 0
	for _, s := range taken {
		if other == nil || !s.begin.Before(other[0].begin) && !s.end.After(other[len(other)-1].end) {
			all += s.end.Sub(s.begin)
			count++
		}
	}
	if count == 0 {
		return math.Inf(1) // they never ran at the same time: no gain
	}
	return float64(all.Nanoseconds()) / float64(count)
}

type slice struct{ begin, end time.Time }

// slicesOf has goroutines do the work repeatedly, all from the same moment and for the same time.
func slicesOf(work func(), goroutines int) [][]slice {
	const most, long = 2000, 5 * time.Millisecond
	var wg sync.WaitGroup
	var ready atomic.Int32
	took := make([][]slice, goroutines)
	for g := range took {
		took[g] = make([]slice, 0, most)
	}
	wg.Add(goroutines)
	for g := range took {
		go func() {
			defer wg.Done()
			local.Set(42)
			mine := took[g]
			ready.Add(1)
			for ready.Load() < int32(goroutines) { // all are running when they begin
			}
			for first := time.Now(); len(mine) < most; {
				begin := time.Now()
				work()
				end := time.Now()
				mine = append(mine, slice{begin, end})
				if end.Sub(first) > long {
					break
				}
			}
			took[g] = mine
		}()
	}
	wg.Wait()
	return took
}

// overhead compares processes of two kinds, each by the best slice of many.
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
