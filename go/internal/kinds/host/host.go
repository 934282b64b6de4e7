// Command host contains the module, as does the plugin that it opens.
package main

import (
	"fmt"
	"os"
	"plugin"
	"runtime"
	"sync/atomic"
	"time"

	"exeunt.invalid/exeunt"
	"exeunt.invalid/exeunt/internal/kinds/ends"
)

func main() {
	fmt.Println("host:", ends.Check())
	opened, err := plugin.Open(os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	register, ran := lookup[func(func())](opened, "Register"), make(chan struct{})
	go register(func() { close(ran) })
	<-ran
	fmt.Println("host's goroutine: the handler ran")

	start, pull := lookup[func(func())](opened, "Start"), lookup[func(func())](opened, "Pull")
	exit := lookup[func()](opened, "Goexit")
	goexit := func(body func()) {
		go func() {
			body()
			exit()
		}()
	}
	check("Goexit", exeunt.Exited, goexit)
	check("plugin's goroutine", exeunt.Exited, start)
	check("plugin's goroutine, Goexit", exeunt.Exited, func(body func()) {
		start(func() {
			body()
			exit()
		})
	})
	check("plugin's coroutine", exeunt.Returned, func(body func()) { go pull(body) })
	fmt.Println("host:", ends.Check())
}

var local = exeunt.NewLocal[int]()

// check lets goroutines end. No other goroutine may see their values, also if their ends are noticed
// by the next collection. Their handlers have to run, once, with their values.
func check(name string, end exeunt.End, run func(func())) {
	const goroutines = 500
	var handlers, strange atomic.Int64
	done := make(chan struct{})
	for i := 1; i <= goroutines; i++ {
		run(func() {
			if _, found := local.Lookup(); found {
				strange.Add(1)
			}
			local.Set(i)
			id := exeunt.ID()
			exeunt.AtExit(func() {
				if local.Get() != i || exeunt.ID() != id || exeunt.Ending() != end {
					strange.Add(1)
				}
				handlers.Add(1)
			})
			grow(20) // the stack moves: what it has held so far remains for the next goroutine
			done <- struct{}{}
		})
		<-done
		go func() { // often with the same descriptor
			if _, found := local.Lookup(); found || local.Get() != 0 {
				strange.Add(1)
			}
			done <- struct{}{}
		}()
		<-done
	}
	for i := 0; i < 10000 && handlers.Load() < goroutines; i++ {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	time.Sleep(10 * time.Millisecond) // for handlers that run twice
	fmt.Printf("%s: %d handlers, %d wrong\n", name, handlers.Load(), strange.Load())
}

//go:noinline
func grow(depth int) byte {
	var frame [512]byte
	if depth > 0 {
		frame[depth] = grow(depth - 1)
	}
	return frame[depth]
}

func lookup[F any](opened *plugin.Plugin, name string) F {
	symbol, err := opened.Lookup(name)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return symbol.(F)
}
