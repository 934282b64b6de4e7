//go:build linux || amd64 || arm64

package exeunt

import (
	"runtime"
	"sync"
	"testing"
)

func TestWithGivesAContextToWhatItRuns(t *testing.T) {
	ended(func() {
		if GetSafe() != nil {
			t.Error("a context before With")
		}
		if panics(func() { Get() }) == nil {
			t.Error("Get outside of With")
		}
		With("outer", func() {
			With(2, func() {
				if Get() != 2 || GetSafe() != 2 {
					t.Error("not the inner context")
				}
			})
			if Get() != "outer" {
				t.Error("not the outer context")
			}
			if panics(func() { With(3, func() { panic(4) }) }) != 4 || Get() != "outer" {
				t.Error("a panic leaves its context behind")
			}
			With(nil, func() {
				if Get() != nil {
					t.Error("not nil")
				}
			})
			Reset()
			if Get() != "outer" {
				t.Error("Reset forgot the context")
			}
		})
		if GetSafe() != nil {
			t.Error("a context after With")
		}
		With("ends by Goexit", func() {
			AtExit(func() {
				if GetSafe() != nil {
					t.Error("a context after Goexit")
				}
			})
			runtime.Goexit()
		})
	})
	done := make(chan struct{})
	go func() { // not with ended: Unload would drop its handler
		defer close(done)
		With("forgotten", func() {
			With("unloaded", func() { Unload(); ID() })
			if GetSafe() != nil {
				t.Error("a context after Unload")
			}
		})
		if GetSafe() != nil {
			t.Error("a context after Unload and With")
		}
	}()
	<-done
}

func TestGoCarriesTheContext(t *testing.T) {
	var wg sync.WaitGroup
	wg.Add(3)
	With("request 7", func() {
		Go(func() {
			defer wg.Done()
			if Get() != "request 7" {
				t.Error(Get())
			}
			Go(func() {
				defer wg.Done()
				if Get() != "request 7" {
					t.Error(Get())
				}
				runtime.Goexit()
			})
		})
		go func() {
			defer wg.Done()
			if GetSafe() != nil {
				t.Error("a plain go statement carried the context")
			}
		}()
	})
	wg.Wait()
	ended(func() { // a goroutine with nothing to pass on
		done := make(chan any)
		Go(func() { done <- GetSafe() })
		if v := <-done; v != nil {
			t.Error(v)
		}
	})
}

func TestInheritableLocalsGoAlong(t *testing.T) {
	var j journal
	plain := NewLocal[string]()
	number := NewInheritable[int](nil)
	doubled := NewInheritable(func(n int) int { return 2 * n })
	shared := NewInheritable[*resource](nil)
	own := NewInheritable(func(r *resource) *resource { return &resource{name: r.name + " of the child", j: r.j} })
	ended(func() {
		plain.Set("stays")
		number.Set(0)
		doubled.Set(21)
		shared.Set(&resource{name: "shared", j: &j})
		own.Set(&resource{name: "own", j: &j})
		closed := make(chan struct{})
		Go(func() {
			if plain.Get() != "" || doubled.Get() != 42 || shared.Get().name != "shared" || own.Get().name != "own of the child" {
				t.Error("other values in the child")
			}
			if _, ok := number.Lookup(); !ok {
				t.Error("a zero that was set is inherited as set")
			}
			Reset() // closes the child's own values
			close(closed)
		})
		<-closed
		j.want(t, "close own of the child")
		closed = make(chan struct{})
		Go(func() {
			shared.Set(&resource{name: "set by the child", j: &j})
			Reset()
			close(closed)
		})
		<-closed
	})
	waitFor(t, &j, "close own of the child", "close own of the child", "close set by the child", "close own", "close shared")
}

// fd is a value without pointers that can be closed, like a file descriptor.
type fd int

var closedDescriptors journal

func (f fd) Close() error {
	closedDescriptors.add("close")
	return nil
}

func TestInheritedScalarsAreNotClosedTwice(t *testing.T) {
	closedDescriptors.lines = nil // from an earlier run of this test
	l := NewInheritable[fd](nil)
	ended(func() {
		l.Set(3)
		done := make(chan struct{})
		Go(func() {
			if l.Get() != 3 {
				t.Error(l.Get())
			}
			Reset()
			close(done)
		})
		<-done
		Reset()
		Reset()
	})
	closedDescriptors.want(t, "close")
}

func TestGoAfterAnUnloadMeanwhileCarriesNothingOfOthers(t *testing.T) {
	const others = 2000
	var holding, released sync.WaitGroup
	hold := make(chan struct{})
	kept := NewInheritable[int](nil)
	ended(func() {
		unloading := NewInheritable(func(v int) int {
			Unload()
			// Another goroutine gets the record of this one, unless it is still in use.
			holding.Add(others)
			released.Add(others)
			for range make([]struct{}, others) {
				go func() {
					defer released.Done()
					kept.Set(2)
					With("other", func() {
						holding.Done()
						<-hold
					})
				}()
			}
			holding.Wait()
			return v
		})
		later := NewInheritable(func(v int) int {
			t.Error("a value was found that had been unloaded")
			return v
		})
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			unloading.Set(1)
			later.Set(1)
			With("mine", func() {
				done := make(chan struct{})
				Go(func() {
					defer close(done)
					if context := GetSafe(); context != nil {
						t.Error("a context that was unloaded, or another one's:", context)
					}
					if v := unloading.Get(); v != 1 {
						t.Error("the value was bequeathed already:", v)
					}
				})
				<-done
			})
			if v := kept.Get(); v != 0 {
				t.Error("another goroutine's value:", v)
			}
		}()
		<-finished
	})
	close(hold)
	released.Wait()
}
