// Command resources gives every worker goroutine a temporary file of its own. A function that does
// not know the worker creates the file when it is first needed; the file is removed when the
// goroutine ends, in whichever way.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"exeunt.invalid/exeunt"
)

// scratch is an io.Closer, so exeunt closes it.
type scratch struct{ *os.File }

func (s scratch) Close() error {
	if err := s.File.Close(); err != nil {
		return err
	}
	return os.Remove(s.Name())
}

// last is created before files, so its values are closed last: after everything else of a
// goroutine.
var last = exeunt.NewLocal[signal]()

var files = exeunt.NewLocal[scratch]()

func file() scratch {
	return files.GetOrInit(func() scratch {
		f, err := os.CreateTemp(directory, "scratch")
		if err != nil {
			panic(err)
		}
		return scratch{f}
	})
}

var directory string

func count() int {
	entries, err := os.ReadDir(directory)
	if err != nil {
		panic(err)
	}
	return len(entries)
}

func main() {
	var err error
	if directory, err = os.MkdirTemp("", "resources"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(directory)

	var ready, gone sync.WaitGroup
	release := make(chan struct{})
	ready.Add(6)
	gone.Add(6)
	for i := 0; i < 6; i++ {
		go func() {
			last.Set(signal(gone.Done))
			defer func() { _ = recover() }()
			fmt.Fprintln(file(), "line 1 of worker", i)
			fmt.Fprintln(file(), "line 2 of worker", i)
			ready.Done()
			<-release
			switch i % 3 {
			case 1:
				runtime.Goexit()
			case 2:
				panic("a worker fails")
			}
		}()
	}
	ready.Wait()
	fmt.Println("files while six workers run:", count())
	close(release)
	gone.Wait()
	fmt.Println("files after they have ended:", count())
}

// signal is a value that only signals that it is closed.
type signal func()

func (s signal) Close() error { s(); return nil }
