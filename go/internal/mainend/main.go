// Command mainend ends its main goroutine while handlers and values are left: by returning, or as
// its argument says.
package main

import (
	"fmt"
	"os"
	"runtime"

	"exeunt.invalid/exeunt"
)

type resource struct{}

func (resource) Close() error {
	fmt.Println("closed")
	return nil
}

func main() {
	value := exeunt.NewLocal[int]()
	value.Set(42)
	exeunt.NewLocal[resource]().Set(resource{})
	exeunt.AtExit(func() { fmt.Println("handler of main, value", value.Get(), "ending:", exeunt.Ending()) })
	exeunt.AtExit(func() {
		fmt.Println("handler that calls Goexit")
		runtime.Goexit()
	})
	fmt.Println("main ends")
	if len(os.Args) == 1 {
		return
	}
	switch os.Args[1] {
	case "exit":
		os.Exit(7)
	case "deadlock":
		select {}
	default:
		panic("neither exit nor deadlock: " + os.Args[1])
	}
}
