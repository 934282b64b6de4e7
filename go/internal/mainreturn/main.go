// Command mainreturn returns from main, or calls os.Exit, with something left to do.
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
	exeunt.AtExit(func() { fmt.Println("handler of main, value", value.Get()) })
	exeunt.AtExit(func() {
		fmt.Println("handler that calls Goexit")
		runtime.Goexit()
	})
	fmt.Println("main returns")
	if len(os.Args) > 1 {
		os.Exit(7)
	}
}
