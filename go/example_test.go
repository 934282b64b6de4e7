//go:build linux && (amd64 || arm64)

package exeunt_test

import (
	"fmt"

	"exeunt.invalid/exeunt"
)

// A connection's goroutine handles one request after another. What a request registers is taken
// back when the request is over.
func ExampleAtExit_stop() {
	request := func(n int, aborts bool) {
		stop := exeunt.AtExit(func() { fmt.Println("the connection ended within request", n) })
		if aborts {
			return
		}
		fmt.Println("request", n, "is done, stopped:", stop())
	}
	ended := make(chan struct{})
	go func() {
		exeunt.AtExit(func() { close(ended) })
		request(1, false)
		request(2, false)
		request(3, true)
	}()
	<-ended
	// Output:
	// request 1 is done, stopped: true
	// request 2 is done, stopped: true
	// the connection ended within request 3
}
