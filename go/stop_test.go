//go:build linux || amd64 || arm64

package exeunt

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestAStoppedHandlerDoesNotRunAndTheOthersKeepTheirOrder(t *testing.T) {
	var j journal
	ended(func() {
		var stops []func() bool
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			stops = append(stops, AtExit(func() { j.add(name) }))
		}
		for _, i := range []int{1, 3} {
			if !stops[i]() || stops[i]() {
				t.Error("stop does not return true once")
			}
		}
		for i := 0; i < 100; i++ { // makes room several times
			if !AtExit(func() { j.add("never") })() {
				t.Error("stop returned false")
			}
			if i%30 == 0 {
				AtExit(func() { j.add("later") })
			}
		}
	})
	j.want(t, "later", "later", "later", "later", "e", "c", "a")
}

func TestAHandlerThatRunsOrHasRunCannotBeStopped(t *testing.T) {
	for name, end := range map[string]func(){"return": func() {}, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			var first, second, third func() bool
			ended(func() {
				third = AtExit(func() { t.Error("the handler that another handler has stopped runs") })
				second = AtExit(func() {
					if first() {
						t.Error("a handler that has run was stopped")
					}
					if second() {
						t.Error("a handler that is running was stopped")
					}
					if !third() {
						t.Error("a handler cannot stop the next one")
					}
					if again := AtExit(func() { t.Error("registered and stopped by a handler") }); !again() {
						t.Error("a handler cannot stop one that it has registered")
					}
				})
				first = AtExit(func() {})
				end()
			})
			if first() || second() || third() {
				t.Error("a handler was stopped after the end of its goroutine")
			}
		})
	}
}

func TestStopAfterUnloadReturnsFalse(t *testing.T) {
	ended(func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			stop := AtExit(func() { t.Error("the unloaded handler runs") })
			Unload()
			if stop() {
				t.Error("an unloaded handler was stopped")
			}
		}()
		<-done
	})
}

// The record and its place among the handlers soon belong to another goroutine.
func TestStopNeverRemovesAHandlerOfAnotherGoroutine(t *testing.T) {
	needsPromptEnds(t)
	var stops []func() bool
	for i := 0; i < 1000; i++ {
		ran := false
		ended(func() {
			stop := AtExit(func() { ran = true })
			for _, old := range stops {
				if old() {
					t.Error("a handler of an ended goroutine was stopped")
				}
			}
			stops = append(stops[max(0, len(stops)-20):], stop)
		})
		if !ran {
			t.Fatal("a stop of an earlier goroutine has removed this handler")
		}
	}
}

func TestStopFromOtherGoroutinesIsExact(t *testing.T) {
	rounds := 2000
	if testing.Short() {
		rounds = 300
	}
	for round := 0; round < rounds; round++ {
		const handlers = 8
		var ran, stopped [handlers]atomic.Int32
		stops := make(chan []func() bool, 1)
		var others sync.WaitGroup
		others.Add(2)
		for k := 0; k < 2; k++ {
			go func() {
				defer others.Done()
				all := <-stops
				stops <- all
				for i := range all {
					if place := (i*5 + k) % handlers; all[place]() {
						stopped[place].Add(1)
					}
				}
			}()
		}
		ended(func() {
			var all []func() bool
			for i := 0; i < handlers; i++ {
				all = append(all, AtExit(func() { ran[i].Add(1) }))
			}
			stops <- all
			for i := 0; i < 20; i++ { // moves handlers meanwhile
				AtExit(func() {})
			}
		})
		others.Wait()
		for i := range ran {
			if ran[i].Load()+stopped[i].Load() != 1 {
				t.Fatalf("handler %d ran %d times and was stopped %d times", i, ran[i].Load(), stopped[i].Load())
			}
		}
	}
}

// heapInUse is what is reachable.
func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// kept returns how many handlers the running goroutine's record holds, and has room for.
func kept() (handlers, room int) {
	r := lookup()
	return len(r.handlers), cap(r.handlers)
}

func TestHandlersThatAreStoppedUseNoMemoryThatGrows(t *testing.T) {
	const registrations = 100_000
	patterns := map[string]func(window []func() bool, i int, stop func() bool){
		"each at once": func(_ []func() bool, _ int, stop func() bool) { stop() },
		"ten at a time, the oldest first": func(window []func() bool, i int, stop func() bool) {
			if old := window[i%10]; old != nil {
				old()
			}
			window[i%10] = stop
		},
		"by another goroutine": func(_ []func() bool, _ int, stop func() bool) {
			done := make(chan struct{})
			go func() { stop(); close(done) }()
			<-done
		},
	}
	for name, pattern := range patterns {
		t.Run(name, func(t *testing.T) {
			ended(func() {
				ran := false
				AtExit(func() { ran = true }) // stays below them
				window := make([]func() bool, 10)
				before := heapInUse()
				for i := 0; i < registrations; i++ {
					request := make([]byte, 1000) // what a handler keeps
					pattern(window, i, AtExit(func() { _ = request[0] }))
				}
				grown := heapInUse() - before
				if n, room := kept(); n > 32 || room > 32 {
					t.Errorf("the record holds %d handlers, with room for %d", n, room)
				}
				if grown > 1<<20 {
					t.Errorf("the heap has grown by %d bytes", grown)
				}
				if ran {
					t.Error("the first handler has run")
				}
			})
		})
	}
}

// One goroutine of the server handles all requests of a connection (DataDog/orchestrion#782).
func TestAHandlerForEachRequestOfAConnectionStaysFlat(t *testing.T) {
	requests := 100_000
	if testing.Short() {
		requests = 10_000
	}
	var ids sync.Map
	var atConnectionEnd atomic.Int32
	most, grown := 0, int64(0)
	var before int64
	count := 0
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ids.Store(ID(), true)
		if count++; count == 1 {
			AtExit(func() { atConnectionEnd.Add(1) })
		}
		path := strings.Repeat(r.URL.Path, 100)
		stop := AtExit(func() { t.Error("the connection ended within", path) })
		defer stop()
		n, _ := kept()
		most = max(most, n)
		switch count {
		case 100:
			before = heapInUse()
		case requests:
			grown = heapInUse() - before
		}
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	connection, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	go func() { // requests one after the other, without waiting for the responses
		out := bufio.NewWriter(connection)
		for i := 1; i < requests; i++ {
			_, _ = io.WriteString(out, "GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		_, _ = io.WriteString(out, "GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		_ = out.Flush()
	}()
	responses, err := io.Copy(io.Discard, connection)
	if err != nil || responses == 0 {
		t.Fatal(responses, err)
	}
	waitUntil(t, func() bool { return atConnectionEnd.Load() == 1 })
	goroutines := 0
	ids.Range(func(any, any) bool { goroutines++; return true })
	if goroutines != 1 || count != requests {
		t.Errorf("%d goroutines handled %d of %d requests", goroutines, count, requests)
	}
	if most > 32 || grown > 1<<20 {
		t.Errorf("the record held up to %d handlers, and the heap grew by %d bytes", most, grown)
	}
}
