// Package exeunt gives any goroutine storage and exit handlers.
package exeunt
