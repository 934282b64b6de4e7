// Package ends checks that goroutines run their handlers, each exactly once, and find their own
// values. The programs beside it contain it in every kind of build.
package ends

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"exeunt.invalid/exeunt"
)

const (
	goroutines = 300 // of each way to end
	handlers   = 3   // of each goroutine
)

// A value is what a goroutine stores. Closing it is one of the things that happen exactly once.
type value struct {
	goroutine int
	closed    *atomic.Int32
}

func (v value) Close() error {
	v.closed.Add(1)
	return nil
}

var (
	local  = exeunt.NewLocal[value]()
	plain  = exeunt.NewLocal[int]()
	signal = exeunt.NewLocal[last]()
)

var ways = map[string]struct {
	do  func()
	end exeunt.End
}{
	"return":          {func() {}, exeunt.Returned},
	"runtime.Goexit":  {runtime.Goexit, exeunt.Exited},
	"recovered panic": {func() { panic("recovered by the entry function") }, exeunt.Recovered},
	"grown stack":     {func() { grow(300) }, exeunt.Returned},
}

//go:noinline
func grow(n int) byte {
	var frame [512]byte
	if n > 0 {
		frame[n%512] = grow(n - 1)
	}
	return frame[(n+1)%512]
}

// Check starts goroutines that end in every way while the garbage collector runs, and returns what
// was wrong.
func Check() error {
	if err := exeunt.Install(); err != nil {
		return err
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	var faults []error
	for name, way := range ways {
		faults = append(faults, check(name, way.do, way.end)...)
	}
	close(stop)
	<-stopped
	return errors.Join(faults...)
}

func check(name string, do func(), end exeunt.End) (faults []error) {
	var ended sync.WaitGroup
	var ran [goroutines][handlers]atomic.Int32
	var closed [goroutines]atomic.Int32
	var strange atomic.Int64
	for i := 0; i < goroutines; i++ {
		ended.Add(1)
		go func(i int) {
			if _, found := local.Lookup(); found || plain.Get() != 0 {
				strange.Add(1)
			}
			// The last of all: it is registered when the values are being closed.
			signal.Set(ended.Done)
			local.Set(value{i, &closed[i]})
			plain.Set(i + 1)
			for h := 0; h < handlers; h++ {
				h := h
				exeunt.AtExit(func() {
					if local.Get().goroutine != i || plain.Get() != i+1 || exeunt.Ending() != end {
						strange.Add(1)
					}
					ran[i][h].Add(1)
				})
			}
			defer func() { _ = recover() }()
			do()
		}(i)
	}
	ended.Wait()
	if n := strange.Load(); n != 0 {
		faults = append(faults, fmt.Errorf("%s: %d values or ends were wrong", name, n))
	}
	for i := range ran {
		for h := range ran[i] {
			if n := ran[i][h].Load(); n != 1 {
				faults = append(faults, fmt.Errorf("%s: handler %d of goroutine %d ran %d times", name, h, i, n))
			}
		}
		if n := closed[i].Load(); n != 1 {
			faults = append(faults, fmt.Errorf("%s: the value of goroutine %d was closed %d times", name, i, n))
		}
	}
	return faults
}

type last func()

func (l last) Close() error {
	exeunt.AtExit(l)
	return nil
}
