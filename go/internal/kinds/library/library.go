// Command library is built into an archive and a shared library for a program in C.
package main

import "C"

import (
	"fmt"

	"exeunt.invalid/exeunt"
	"exeunt.invalid/exeunt/internal/kinds/ends"
)

var number = exeunt.NewLocal[int]()

// Check returns 0 if every handler of every goroutine ran exactly once.
//
//export Check
func Check() C.int {
	if err := ends.Check(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// Enter ends when it returns to C, whichever thread calls it.
//
//export Enter
func Enter(n C.int) {
	before := number.Get()
	number.Set(int(n))
	exeunt.AtExit(func() { fmt.Printf("%d found %d, leaves %d\n", n, before, number.Get()) })
}

func main() {}
