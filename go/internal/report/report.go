// Package report is how package tls reports as package exeunt does.
package report

// Report calls what exeunt.OnPanic was given, or writes to standard error. Package exeunt sets it.
var Report func(value any, stack []byte)
