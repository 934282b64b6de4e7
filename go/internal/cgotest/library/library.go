// Command library is built into an archive for a program in C, which calls Enter before or while
// Go's packages are initialized.
package main

import "C"

import (
	"fmt"

	"exeunt.invalid/exeunt"
)

var number = exeunt.NewLocal[int]()

//export Enter
func Enter(n C.int) {
	fmt.Println("enter", n, "finds", number.Get())
	number.Set(int(n))
	exeunt.AtExit(func() { fmt.Println("leave", number.Get()) })
}

func main() {}
