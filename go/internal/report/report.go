// Package report lets package tls report errors and panics in the same way as package exeunt.
package report

// Report calls the function given to exeunt.OnPanic, or writes to standard error. Package exeunt
// sets it.
var Report func(value any, stack []byte)
