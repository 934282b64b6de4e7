// Command plugin is built as a plugin.
package main

import (
	"runtime"

	"exeunt.invalid/exeunt"
)

// Register registers f on the running goroutine, which the host has started.
func Register(f func()) { exeunt.AtExit(f) }

// Goexit ends the running goroutine by the plugin's copy of runtime.Goexit.
func Goexit() { runtime.Goexit() }

// Start starts a goroutine.
func Start(f func()) { go f() }

// Install returns what that does in a program that does not contain the module.
func Install() error { return exeunt.Install() }

func main() {}
