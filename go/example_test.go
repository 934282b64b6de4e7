//go:build linux || amd64 || arm64

package exeunt_test

import (
	"fmt"
	"sync"

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

// A worker's buffer is made when the worker first needs it, and closed when the worker ends.
func ExampleNewLocalFunc() {
	buffer := exeunt.NewLocalFunc(func() *scratch {
		fmt.Println("a buffer is made")
		return &scratch{}
	})
	ended := make(chan struct{})
	go func() {
		exeunt.AtExit(func() { fmt.Printf("%q\n", buffer.Get().text) })
		buffer.Get().text += "one "
		buffer.Get().text += "two"
		last.Set(signal(func() { close(ended) }))
	}()
	<-ended
	// Output:
	// a buffer is made
	// "one two"
	// the buffer is closed
}

type scratch struct{ text string }

func (*scratch) Close() error {
	fmt.Println("the buffer is closed")
	return nil
}

// Set would close the scratch buffer that the new value contains.
func ExampleLocal_Swap() {
	type closer = interface{ Close() error }
	local := exeunt.NewLocal[closer]()
	before, _ := local.Swap(&scratch{})
	fmt.Println("before:", before)
	inner, _ := local.Swap(nil)
	local.Set(wrapper{inner})
	local.Del()
	// Output:
	// before: <nil>
	// the wrapper is closed
	// the buffer is closed
}

type wrapper struct{ inner interface{ Close() error } }

func (w wrapper) Close() error {
	fmt.Println("the wrapper is closed")
	return w.inner.Close()
}

// signal is a value that calls a function after everything else of its goroutine: a handler that a
// Close registers runs when all values have been closed.
type signal func()

func (s signal) Close() error {
	exeunt.AtExit(s)
	return nil
}

var last = exeunt.NewLocal[signal]()

// A deferred Done comes before the handlers and the Close calls. The signal comes after them,
// however the goroutine ends and whichever locals it uses.
func ExampleLocal_wait() {
	buffer := exeunt.NewLocalFunc(func() *scratch { return &scratch{} })
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		last.Set(signal(wg.Done)) // and not defer wg.Done()
		defer fmt.Println("deferred")
		exeunt.AtExit(func() { fmt.Println("handler") })
		buffer.Get()
	}()
	wg.Wait()
	fmt.Println("all is done")
	// Output:
	// deferred
	// handler
	// the buffer is closed
	// all is done
}

var user = exeunt.NewInheritable[string](nil)

// A pool's worker runs each job with the values of the code that has submitted it, not with those
// of the code that has started the worker.
func ExampleWrap() {
	jobs := make(chan func())
	var wg sync.WaitGroup
	user.Set("the one that starts the pool")
	exeunt.Go(func() {
		for job := range jobs {
			job()
			wg.Done()
		}
	})
	job := func() { fmt.Println("for", user.Get()) }
	user.Set("alice")
	wg.Add(2)
	jobs <- exeunt.Wrap(job)
	jobs <- job
	wg.Wait()
	user.Del()
	// Output:
	// for alice
	// for the one that starts the pool
}

// A function that returns an error, as errgroup.Group.Go wants it.
func ExampleCaptured_Run() {
	start := func(f func() error) error { // as errgroup.Group.Go and Wait
		result := make(chan error)
		go func() { result <- f() }()
		return <-result
	}
	exeunt.With("request 7", func() {
		c := exeunt.Capture()
		err := start(func() (err error) {
			c.Run(func() { err = fmt.Errorf("%v failed", exeunt.Get()) })
			return err
		})
		fmt.Println(err)
	})
	// Output:
	// request 7 failed
}
