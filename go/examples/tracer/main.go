// Command tracer measures how long goroutines live, and how they ended up being started by code that it does not own: an exit hook, which Go
// itself doesn't have. Instrumentation calls Enter wherever it runs anyway; the hook needs no end to be instrumented.
package main

import (
	"fmt"
	"runtime"
	"sort"
	"sync"
	"time"

	"exeunt.invalid/exeunt"
)

// A span is one goroutine's, from the first Enter to its end.
type span struct {
	goroutine int64
	began     time.Time
	calls     []string
}

var current = exeunt.NewLocal[*span]()

var finished struct {
	sync.Mutex
	spans []*span
	wait  sync.WaitGroup
}

// Enter notes a call. The first in a goroutine begins its span.
func Enter(name string) {
	s := current.GetOrInit(func() *span {
		s := &span{goroutine: exeunt.ID(), began: time.Now()}
		finished.wait.Add(1)
		exeunt.AtExit(func() { finish(s) })
		return s
	})
	s.calls = append(s.calls, name)
}

func finish(s *span) {
	if time.Since(s.began) < 0 {
		s.calls = append(s.calls, "a clock that goes backwards")
	}
	finished.Lock()
	finished.spans = append(finished.spans, s)
	finished.Unlock()
	finished.wait.Done()
}

// A library that the tracer knows nothing of, but for its calls of Enter.
func library(n int) {
	Enter(fmt.Sprint("work ", n))
	defer Enter(fmt.Sprint("cleanup ", n))
	if n%2 == 1 {
		runtime.Goexit() // no code after the call would run
	}
}

func main() {
	var started sync.WaitGroup
	for n := 0; n < 4; n++ {
		started.Add(1)
		go func() {
			defer started.Done()
			library(n)
		}()
	}
	started.Wait()
	finished.wait.Wait()
	seen := map[int64]bool{}
	var lines []string
	for _, s := range finished.spans {
		lines = append(lines, fmt.Sprint(s.calls))
		seen[s.goroutine] = true
	}
	sort.Strings(lines)
	for _, line := range lines {
		fmt.Println(line)
	}
	fmt.Println("goroutines:", len(seen))
}
