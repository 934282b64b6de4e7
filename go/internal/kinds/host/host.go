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
	fmt.Println("plugin's goroutine:", lookup[func() any](opened, "Start")())
	register, ran := lookup[func(func())](opened, "Register"), make(chan struct{})
	go register(func() { close(ran) })
	<-ran
	fmt.Println("host's goroutine: the handler ran")
	fmt.Println("host:", ends.Check())
}

func lookup[F any](opened *plugin.Plugin, name string) F {
	symbol, err := opened.Lookup(name)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return symbol.(F)
}
