// Command program checks goroutines' ends. With the argument wait it then keeps some armed
// goroutines, for a debugger.
package main

import (
	"fmt"
	"os"
	"runtime"

	"exeunt.invalid/exeunt"
	"exeunt.invalid/exeunt/internal/kinds/ends"
)

func main() {
	exeunt.AtExit(func() { fmt.Println("handler of main:", exeunt.Ending()) })
	if err := ends.Check(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("checked")
	if len(os.Args) > 1 && os.Args[1] == "wait" {
		kept := make(chan struct{})
		for i := 0; i < 3; i++ {
			go keep(kept)
			<-kept
		}
		done := make(chan struct{})
		go entry(done)
		<-done
	}
}

//go:noinline
func keep(kept chan<- struct{}) {
	exeunt.AtExit(func() {})
	kept <- struct{}{}
	select {}
}

//go:noinline
func entry(done chan struct{}) {
	exeunt.AtExit(func() { handler(done) })
	armed()
}

//go:noinline
func armed() { runtime.Gosched() }

//go:noinline
func handler(done chan struct{}) { close(done) }
