// Command host contains the module, as does the plugin that it opens.
package main

import (
	"fmt"
	"os"
	"plugin"

	"exeunt.invalid/exeunt/internal/kinds/ends"
)

func main() {
	fmt.Println("host:", ends.Check())
	opened, err := plugin.Open(os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	check, err := opened.Lookup("Check")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("plugin:", check.(func() error)())
	fmt.Println("host:", ends.Check())
}
