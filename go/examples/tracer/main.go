// Command tracer measures how long goroutines live that are started and ended by code it does not
// own. It uses an exit hook, which Go itself does not have: instrumentation calls Enter where it
// runs anyway, and no end has to be instrumented.
package main

import (
	"fmt"
	"runtime"
	"sort"
	"sync"
	"time"

	"exeunt.invalid/exeunt"
)

// A span lasts from a goroutine's first call of Enter to its end.
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

// Enter records a call. The first call on a goroutine begins the goroutine's span.
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

// library is code that calls Enter, and is otherwise unknown to the tracer.
func library(n int) {
	Enter(fmt.Sprint("work ", n))
	defer Enter(fmt.Sprint("cleanup ", n))
	if n%2 == 1 {
		runtime.Goexit() // code after the call would not run
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
