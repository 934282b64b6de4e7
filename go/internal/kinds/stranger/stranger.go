// Command stranger opens a plugin that contains the module, and does not contain it.
package main

import (
	"fmt"
	"os"
	"plugin"
)

func main() {
	opened, err := plugin.Open(os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	install, err := opened.Lookup("Install")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(install.(func() error)())
}
