//go:build linux || amd64 || arm64

package exeuntpprof_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"

	"exeunt.invalid/exeunt/exeuntpprof"
)

// inProfile returns the labels that the goroutine profile shows for the running goroutine: those
// beside the stack that has this function.
//
//go:noinline
func inProfile() string {
	var out bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&out, 1); err != nil {
		return err.Error()
	}
	for _, stack := range strings.Split(out.String(), "\n\n") {
		if strings.Contains(stack, "exeuntpprof_test.inProfile+") {
			_, labels, _ := strings.Cut(stack, "# labels: ")
			labels, _, _ = strings.Cut(labels, "\n")
			return labels
		}
	}
	return "there is no such stack"
}

func on(start func(func()), fn func()) {
	done := make(chan struct{})
	start(func() { defer close(done); fn() })
	<-done
}

func Example() {
	query := func() { // takes no context
		exeuntpprof.Do(pprof.Labels("table", "users"), func() { fmt.Println(inProfile()) })
	}
	exeuntpprof.Do(pprof.Labels("request", "7"), func() {
		query()
		fmt.Println(inProfile())
	})
	fmt.Printf("%q\n", inProfile())
	// Output:
	// {"request":"7", "table":"users"}
	// {"request":"7"}
	// ""
}

func TestLabelsReachOtherGoroutinesAndLeaveThem(t *testing.T) {
	type outcome struct{ labels, want string }
	var outcomes []outcome
	see := func(want string) { outcomes = append(outcomes, outcome{inProfile(), want}) }
	jobs, done := make(chan func()), make(chan struct{})
	go func() { // a pool's worker with labels of its own
		exeuntpprof.Add(pprof.Labels("worker", "1"))
		for job := range jobs {
			job()
			see(`{"worker":"1"}`)
			done <- struct{}{}
		}
		close(done)
	}()
	exeuntpprof.Do(pprof.Labels("request", "7"), func() {
		on(exeuntpprof.Go, func() {
			see(`{"request":"7"}`)
			if value, ok := exeuntpprof.Label("request"); value != "7" || !ok {
				t.Errorf("%q %v", value, ok)
			}
		})
		jobs <- exeuntpprof.Wrap(func() { see(`{"request":"7"}`) })
		<-done
		jobs <- func() { see(`{"worker":"1"}`) }
		<-done
		jobs <- exeuntpprof.Wrap(func() {
			defer func() { _ = recover() }()
			exeuntpprof.Do(pprof.Labels("inner", "x"), func() { panic(1) })
		})
		<-done
		// The library's own function keeps them, if it is given them.
		pprof.Do(exeuntpprof.Context(), pprof.Labels("more", "y"), func(context.Context) { see(`{"more":"y", "request":"7"}`) })
		see(`{"request":"7"}`)
	})
	close(jobs)
	<-done
	see("")
	on(func(fn func()) { go fn() }, func() {
		defer func() { see("") }()
		exeuntpprof.Do(pprof.Labels("a", "b"), runtime.Goexit)
	})
	for i, o := range outcomes {
		if o.labels != o.want {
			t.Errorf("%d: %s and not %s", i, o.labels, o.want)
		}
	}
}
