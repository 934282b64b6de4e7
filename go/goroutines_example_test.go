//go:build go1.23 && (linux || amd64 || arm64)

package exeunt_test

import (
	"fmt"
	"path/filepath"
	"runtime"

	"exeunt.invalid/exeunt"
)

var connection = exeunt.NewLocal[int]().Named("connection")

// A check for leaks: which goroutines still have a connection, and who has started them?
func ExampleGoroutines() {
	ready, stop, ended := make(chan int), make(chan struct{}), make(chan int)
	for i := 0; i < 3; i++ {
		go func() {
			connection.Set(i)
			exeunt.AtExit(func() { ended <- i })
			ready <- i
			if i != 1 {
				return
			}
			<-stop
		}()
		<-ready
	}
	<-ended
	<-ended
	for g := range exeunt.Goroutines() {
		for _, name := range g.Values {
			if by := g.CreatedBy(); name == "connection" && g.End == exeunt.Running {
				fmt.Println("has a", name, "and was started by", by.Function, "in", filepath.Base(by.File))
			}
		}
	}
	close(stop)
	<-ended
	// Output:
	// has a connection and was started by exeunt.invalid/exeunt_test.ExampleGoroutines in goroutines_example_test.go
}

func ExampleEnding() {
	done := make(chan struct{})
	for _, end := range []func(){func() {}, runtime.Goexit} {
		exeunt.Go(func() {
			exeunt.AtExit(func() {
				fmt.Println(exeunt.Ending())
				done <- struct{}{}
			})
			end()
		})
		<-done
	}
	// Output:
	// returned
	// exited
}
