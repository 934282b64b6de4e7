// Command resources gives every worker goroutine a temporary file of its own, made when it is first needed by a function that knows nothing of
// the worker, and removed when the goroutine ends, however that may be.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"exeunt.invalid/exeunt"
)

// scratch is closed by exeunt, because it is an io.Closer.
type scratch struct{ *os.File }

func (s scratch) Close() error {
	if err := s.File.Close(); err != nil {
		return err
	}
	return os.Remove(s.Name())
}

// The local created last is closed first, so this one is a goroutine's last word: it is created before files.
var last = exeunt.NewLocal[said]()

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
			last.Set(said(gone.Done))
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

// said is a value that only tells when it is closed.
type said func()

func (s said) Close() error { s(); return nil }
