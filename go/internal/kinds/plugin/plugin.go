// Command plugin is built as a plugin.
package main

import "exeunt.invalid/exeunt/internal/kinds/ends"

func Check() error { return ends.Check() }

func main() {}
