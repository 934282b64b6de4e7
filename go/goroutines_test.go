//go:build linux || amd64 || arm64

package exeunt

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestHandlersAndClosesKnowHowTheGoroutineEnds(t *testing.T) {
	closed := NewLocal[closingFunc]()
	for name, test := range map[string]struct {
		end  func()
		want End
	}{
		"return":          {func() {}, Returned},
		"Goexit":          {runtime.Goexit, Exited},
		"deferred Goexit": {func() { defer runtime.Goexit() }, Exited},
		"panic recovered": {func() { _ = panics(func() { panic(1) }) }, Returned},
		"panic recovered by an inner function": {func() {
			// After it other calls return, and other panics are recovered, in inner frames.
			func() {
				defer func() { _ = recover() }()
				panic(1)
			}()
		}, Returned},
		"panic that Goexit ends": {func() {
			defer runtime.Goexit()
			panic(1)
		}, Exited},
	} {
		test.want = asNoticed(test.want)
		t.Run(name, func(t *testing.T) {
			var first, nested, inClose, second, last End
			done := make(chan struct{})
			go func() {
				AtExit(func() { second = Ending() })
				AtExit(runtime.Goexit)
				AtExit(func() {
					first = Ending()
					ended(func() { nested = Ending() })
				})
				closed.Set(func() {
					inClose = Ending()
					AtExit(func() { last = Ending(); close(done) })
				})
				if Ending() != Running {
					t.Error("before its end:", Ending())
				}
				test.end()
			}()
			<-done
			if first != test.want || second != test.want || inClose != test.want || last != test.want || nested != Running {
				t.Error(first, second, inClose, last, nested)
			}
		})
	}
	if Ending() != Running || fmt.Sprint(Returned, MainReturned, End(99)) != "returned main returned unknown" {
		t.Error(Ending(), Returned, MainReturned, End(99))
	}
}

// Which frame recovers the last panic decides. Recovered needs the spare words.
func TestAPanicThatReachesTheEntryFunctionIsAnEndOfItsOwn(t *testing.T) {
	recovered := Recovered
	if InForce() != Code || useMap {
		recovered = Returned
	}
	var ending End
	done := make(chan struct{})
	note := func() { AtExit(func() { ending = Ending(); done <- struct{}{} }) }
	inner := func() { _ = panics(func() { panic(1) }) }
	for name, test := range map[string]struct {
		start func()
		want  End
	}{
		"closure": {func() {
			go func() {
				defer func() { _ = recover() }()
				note()
				inner()
				panic(1)
			}()
		}, recovered},
		"not the last deferred function": {func() {
			go func() {
				note()
				defer func() { inner(); runtime.Gosched(); deep(500, runtime.GC) }()
				defer func() { _ = recover() }()
				defer func() {}()
				deep(500, func() { panic(1) })
			}()
		}, recovered},
		"deferred in a loop": {func() {
			go func() {
				note()
				for i := 0; i < 10; i++ {
					defer func() { _ = recover() }()
				}
				panic(1)
			}()
		}, recovered},
		"function with arguments": {func() { go recovers(1, note) }, recovered},
		"one that calls itself":   {func() { go recovers(2, note) }, Returned},
		"fault of the processor": {func() {
			go func() {
				defer func() { _ = recover() }()
				note()
				var p *int
				*p = 1
			}()
		}, recovered},
		"Goexit afterwards": {func() {
			go func() {
				defer runtime.Goexit()
				defer func() { _ = recover() }()
				note()
				panic(1)
			}()
		}, Exited},
		"before the first use": {func() {
			go func() {
				inner()
				note()
			}()
		}, Returned},
		"none": {func() { go func() { note() }() }, Returned},
	} {
		test.want = asNoticed(test.want)
		t.Run(name, func(t *testing.T) {
			for i := 0; i < 20; i++ { // stacks are used again
				test.start()
				<-done
				if ending != test.want {
					t.Fatalf("%v and not %v", ending, test.want)
				}
			}
		})
	}
}

// recovers panics in the innermost of calls of itself, where it recovers.
//
//go:noinline
func recovers(calls int, note func()) {
	if calls > 1 {
		recovers(calls-1, note)
		return
	}
	defer func() { _ = recover() }()
	note()
	panic(1)
}

func init() {
	say := func() { AtExit(func() { fmt.Println(Ending()) }) }
	scenarios["ending: os.Exit"] = func() { say(); os.Exit(3) }
	scenarios["ending: os.Exit elsewhere"] = func() {
		say()
		go func() { say(); os.Exit(3) }()
		select {}
	}
	scenarios["ending: os.Exit in a handler"] = func() {
		go func() {
			say()
			AtExit(func() { fmt.Println(Ending()); os.Exit(3) })
		}()
		select {}
	}
	scenarios["ending: Goexit of main"] = func() {
		collectUnlessInCodeMode()
		AtExit(func() { os.Exit(3) })
		say()
		runtime.Goexit()
	}
}

func TestHandlersKnowHowTheProcessEnds(t *testing.T) {
	for scenario, output := range map[string]string{
		"os.Exit":              "process exit\n",
		"os.Exit elsewhere":    "process exit\n",
		"os.Exit in a handler": "returned\nprocess exit\n",
		"Goexit of main":       "exited\n",
	} {
		if InForce() != Code {
			output = strings.TrimSuffix(output, "process exit\n") // os.Exit is not noticed
		}
		if inCollectedMode() {
			output = strings.NewReplacer("returned", "ended", "exited", "ended").Replace(output)
		}
		code, got := child(t, "ending: "+scenario)
		want(t, code, got, 3, output)
	}
}

// find returns what Goroutines says about the goroutine with this ID.
func find(id int64) (found Goroutine, times int) {
	Goroutines()(func(g Goroutine) bool {
		if g.ID == id {
			found = g
			times++
		}
		return true
	})
	return found, times
}

// waitsHere starts a goroutine that uses the package, and returns its ID and a function that ends it.
//
//go:noinline
func waitsHere(use func()) (id, number int64, end func()) {
	ready, stop, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		use()
		AtExit(func() { close(ended) })
		id, number = ID(), int64(numberInTraceback())
		close(ready)
		<-stop
	}()
	<-ready
	return id, number, func() { close(stop); <-ended }
}

func TestGoroutinesTellsWhereAndWhenAndWithWhat(t *testing.T) {
	// All kinds of values, in the record and outside of it.
	pointer := NewLocal[*int]().Named("a pointer")
	text := NewLocalFunc(func() string { return "first" }).Named("a text")
	unset := NewInheritable[int](nil).Named("never set")
	for i := 0; i < inlineSlots; i++ {
		NewLocal[int]()
	}
	number := NewLocal[uint16]().Named("?").Named("a number")
	none := NewLocal[int]()
	if number.Name() != "a number" || none.Name() != "" {
		t.Errorf("%q %q", number.Name(), none.Name())
	}
	for _, test := range []struct {
		use    func()
		values []string
	}{
		{func() {}, nil},
		{func() { number.Set(0) }, []string{"a number"}},
		{func() { _ = text.Get(); pointer.Set(nil) }, []string{"a pointer", "a text"}},
		{func() { number.Set(1); pointer.Set(new(int)); number.Del() }, []string{"a pointer"}},
		{func() { unset.Lookup(); none.Set(1) }, nil},
	} {
		before := time.Now()
		id, traceback, end := waitsHere(test.use)
		after := time.Now()
		g, times := find(id)
		if times != 1 {
			t.Fatalf("it was found %d times", times)
		}
		if g.Armed.Before(before) || g.Armed.After(after) || g.Age() < 0 || g.Age() > time.Since(before) {
			t.Error("armed at", g.Armed, "and not between", before, "and", after)
		}
		if !reflect.DeepEqual(g.Values, test.values) {
			t.Errorf("values %q and not %q", g.Values, test.values)
		}
		if g.Number != uint64(traceback) {
			t.Errorf("number %d and not %d", g.Number, traceback)
		}
		by := g.CreatedBy()
		if !strings.HasSuffix(by.Function, ".waitsHere") || !strings.HasSuffix(by.File, "goroutines_test.go") || by.Line == 0 {
			t.Errorf("created by %+v", by)
		}
		if g.End != Running || !strings.Contains(g.String(), "waitsHere") || !strings.Contains(g.String(), "running") {
			t.Error(g)
		}
		end()
		waitUntil(t, func() bool { _, times := find(id); return times == 0 })
	}
}

// The traceback is what people would parse otherwise.
func TestCreationSitesAreThoseOfTheTraceback(t *testing.T) {
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g, _ := find(ID())
		by := g.CreatedBy()
		buffer := make([]byte, 1<<16)
		stack := string(buffer[:runtime.Stack(buffer, false)])
		for _, text := range []string{
			fmt.Sprintf("goroutine %d [", g.Number),
			fmt.Sprintf("created by %s in goroutine ", by.Function),
			fmt.Sprintf("\n\t%s:%d +", by.File, by.Line),
		} {
			if !strings.Contains(stack, text) {
				t.Errorf("%q is not in\n%s", text, stack)
			}
		}
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() { _ = server.Serve(listener) }()
	response, err := http.Get("http://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}

func TestGoroutinesShowsOneThatIsEnding(t *testing.T) {
	inHandler, goOn := make(chan int64), make(chan struct{})
	for _, end := range []End{Returned, Exited} {
		go func() {
			AtExit(func() { inHandler <- ID(); <-goOn })
			if end == Exited {
				runtime.Goexit()
			}
		}()
		if g, _ := find(<-inHandler); g.End != asNoticed(end) {
			t.Errorf("%v and not %v", g.End, asNoticed(end))
		}
		goOn <- struct{}{}
	}
}

func TestTheLoopMayStopAndMayUseThePackage(t *testing.T) {
	_, _, end1 := waitsHere(func() {})
	defer end1()
	_, _, end2 := waitsHere(func() {})
	defer end2()
	seen := 0
	Goroutines()(func(Goroutine) bool { seen++; return false })
	if seen != 1 {
		t.Error(seen, "after the loop was to stop")
	}
	local := NewLocal[int]()
	done := make(chan struct{})
	go func() {
		defer close(done)
		Goroutines()(func(Goroutine) bool {
			local.Set(1)
			ended(func() { local.Set(2) })
			Unload()
			Goroutines()(func(Goroutine) bool { return true })
			return true
		})
	}()
	<-done
}

// While goroutines begin, change and end, each that is listed is one, with one ID.
func TestGoroutinesWhileEverythingChanges(t *testing.T) {
	needsPromptEnds(t)
	turns := 20000
	if testing.Short() {
		turns = 2000
	}
	first := NewLocal[string]().Named("first")
	for i := 0; i < inlineSlots; i++ {
		NewLocal[int]()
	}
	far := NewLocal[*int]().Named("far")
	var owners sync.Map // ID to the number of the goroutine in tracebacks
	var stop atomic.Bool
	var wg sync.WaitGroup
	for worker := 0; worker < 4; worker++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for turn := 0; turn < turns; turn++ {
				done := make(chan struct{})
				go func() {
					AtExit(func() { close(done) })
					if turn%2 == 0 {
						first.Set("x")
						far.Set(new(int))
					}
					if turn%3 == 0 {
						number := numberInTraceback()
						if other, there := owners.LoadOrStore(ID(), number); there && other != number {
							t.Errorf("ID %d was that of goroutine %v, and is that of %v", ID(), other, number)
						}
					}
					first.Del()
				}()
				<-done
			}
		}()
	}
	go func() { wg.Wait(); stop.Store(true) }()
	listed := 0
	for !stop.Load() {
		Goroutines()(func(g Goroutine) bool {
			listed++
			if g.ID == 0 || g.Number == 0 || g.Age() < 0 {
				t.Error(g)
			}
			if other, there := owners.LoadOrStore(g.ID, uintptr(g.Number)); there && other != uintptr(g.Number) {
				t.Errorf("ID %d was that of goroutine %v, and is that of %v", g.ID, other, g.Number)
			}
			return true
		})
	}
	if listed == 0 {
		t.Error("none was listed")
	}
}
