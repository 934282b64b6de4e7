//go:build linux || amd64 || arm64

package exeunt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A pool starts its worker when the first job comes. With [Go] in the pool, as an instrumentation
// that rewrites go statements has it, the worker keeps the first request's context and values for
// all jobs (open-telemetry/opentelemetry-go-compile-instrumentation#673).
type lazyPool struct {
	start sync.Once
	jobs  chan func()
}

func (p *lazyPool) submit(job func()) {
	p.start.Do(func() {
		p.jobs = make(chan func())
		Go(func() {
			for job := range p.jobs {
				job()
			}
		})
	})
	p.jobs <- job
}

var span = NewInheritable[string](nil)

// spansInPool returns what the jobs of three requests see; the last one has nothing.
func spansInPool(wrap func(func()) func()) string {
	var pool lazyPool
	var seen []string
	request := func(name string) {
		done := make(chan struct{})
		ended(func() {
			job := func() {
				seen = append(seen, fmt.Sprintf("%s: %v %q", name, GetSafe(), span.Get()))
				close(done)
			}
			if name == "none" {
				pool.submit(wrap(job))
			} else {
				span.Set("span of " + name)
				With(name, func() { pool.submit(wrap(job)) })
			}
		})
		<-done
	}
	request("a")
	request("b")
	request("none")
	// What the worker itself has is still there.
	done := make(chan struct{})
	pool.submit(func() {
		seen = append(seen, fmt.Sprintf("worker: %v %q", GetSafe(), span.Get()))
		close(done)
	})
	<-done
	close(pool.jobs)
	return strings.Join(seen, "; ")
}

func TestAWorkerKeepsTheFirstRequestsValuesUnlessJobsAreWrapped(t *testing.T) {
	fault := `a: a "span of a"; b: a "span of a"; none: a "span of a"; worker: a "span of a"`
	if got := spansInPool(func(job func()) func() { return job }); got != fault {
		t.Errorf("without Wrap\ngot  %s\nwant %s", got, fault)
	}
	cured := `a: a "span of a"; b: b "span of b"; none: <nil> ""; worker: a "span of a"`
	if got := spansInPool(Wrap); got != cured {
		t.Errorf("with Wrap\ngot  %s\nwant %s", got, cured)
	}
}

// group has the shape of errgroup.Group.
type group struct {
	wait sync.WaitGroup
	once sync.Once
	err  error
}

func (g *group) Go(f func() error) {
	g.wait.Add(1)
	go func() {
		defer g.wait.Done()
		if err := f(); err != nil {
			g.once.Do(func() { g.err = err })
		}
	}()
}

func TestTimersAndGroupsRunWithWhatWasCaptured(t *testing.T) {
	failed := errors.New("failed")
	ended(func() {
		span.Set("the caller's")
		With("request", func() {
			sees := func() bool { return GetSafe() == "request" && span.Get() == "the caller's" }
			done := make(chan bool)
			time.AfterFunc(time.Millisecond, Wrap(func() { done <- sees() }))
			if !<-done {
				t.Error("not in a timer")
			}
			var g group
			c := Capture()
			for i := 0; i < 3; i++ {
				g.Go(func() (err error) {
					c.Run(func() {
						if !sees() {
							t.Error("not in a group")
						}
						err = failed
					})
					if sees() {
						t.Error("still there after Run")
					}
					return err
				})
			}
			if g.wait.Wait(); g.err != failed {
				t.Error(g.err)
			}
		})
	})
}

func TestRunPutsBackWhatWasThereHoweverItsFunctionEnds(t *testing.T) {
	var j journal
	text := NewInheritable[string](nil)
	value := NewInheritable[*resource](nil)
	plain := NewLocal[int]()
	var some Captured
	captured := make(chan struct{})
	release := make(chan struct{})
	go func() {
		text.Set("captured")
		value.Set(&resource{name: "captured", j: &j})
		With("captured", func() { some = Capture() })
		close(captured)
		<-release
	}()
	<-captured
	for name, c := range map[string]Captured{"values": some, "nothing": {}} {
		for how, end := range map[string]func(){
			"return": func() {},
			"panic":  func() { panic("ends") },
			"Goexit": runtime.Goexit,
			"Reset":  Reset,
			"Unload": Unload,
			"set": func() {
				text.Set("other")
				value.Set(&resource{name: "set within", j: &j})
			},
			"deleted": func() { text.Del(); value.Del() },
			"nested": func() {
				Captured{}.Run(func() {
					if GetSafe() != nil || text.Get() != "" || value.Get() != nil {
						t.Error("not hidden by a nested Run")
					}
				})
			},
		} {
			for _, used := range []bool{false, true} {
				j.Lock()
				j.lines = nil
				j.Unlock()
				own := &resource{name: "own", j: &j}
				check := func() {
					context, ok := GetSafe(), false
					if used {
						_, ok = text.Lookup()
						ok = ok && text.Get() == "own" && value.Get() == own && context == "own"
					} else {
						_, set := value.Lookup()
						ok = text.Get() == "" && !set && context == nil
					}
					if !ok {
						t.Errorf("%s, %s, %t: put back: %v, %q, %v", name, how, used, context, text.Get(), value.Get())
					}
				}
				finished := make(chan struct{})
				go func() {
					defer close(finished)
					defer func() { _ = recover() }()
					run := func() {
						defer check()
						c.Run(func() {
							if name == "values" {
								if Get() != "captured" || text.Get() != "captured" || value.Get().name != "captured" {
									t.Error("not what was captured")
								}
							} else if _, ok := text.Lookup(); ok || GetSafe() != nil || value.Get() != nil {
								t.Error("the goroutine's own values are not hidden")
							}
							plain.Set(plain.Get() + 1)
							end()
						})
					}
					if used {
						text.Set("own")
						value.Set(own)
						With("own", run)
					} else {
						run()
					}
				}()
				<-finished
				var want []string
				if how == "set" {
					want = append(want, "close set within")
				}
				if used {
					want = append(want, "close own")
				}
				waitFor(t, &j, want...)
			}
		}
	}
	close(release)
}

func TestAValueThatAChildFunctionMadeIsClosedByTheFirstRun(t *testing.T) {
	var j journal
	number := NewInheritable(func(n int) int { return n + 1 })
	value := NewInheritable(func(r *resource) *resource {
		if r.name == "no copy" {
			return nil
		}
		return &resource{name: "copy of " + r.name, j: r.j}
	})
	ended(func() {
		number.Set(1)
		value.Set(&resource{name: "a", j: &j})
		c := Capture()
		value.Set(&resource{name: "no copy", j: &j})
		none := Capture()
		value.Swap(nil)
		number.Set(10)
		j.want(t, "close a")
		for run := 1; run <= 3; run++ {
			done := make(chan struct{})
			go func() {
				defer close(done)
				c.Run(func() {
					r, ok := value.Lookup()
					if number.Get() != 2 || ok != (run == 1) || ok && r.name != "copy of a" {
						t.Error("run", run, number.Get(), r)
					}
				})
				none.Run(func() {
					if v, ok := value.Lookup(); v != nil || !ok {
						t.Error("a nil that a child function has made is set")
					}
				})
			}()
			<-done
			j.want(t, "close a", "close copy of a")
		}
	})
}

func TestACloseAtTheEndOfRunMayFailAndEndTheGoroutine(t *testing.T) {
	var j journal
	var all []*Local[*resource]
	for i := 0; i < 4; i++ {
		all = append(all, NewInheritable[*resource](nil))
	}
	closes := []func() error{nil, closeByGoexit, func() error { panic("panicked") }, func() error { return io.ErrShortWrite }}
	reports := reported(func() {
		ended(func() {
			defer func() {
				if v := all[0].Get(); v == nil || v.name != "own" {
					t.Error("not put back")
				}
			}()
			all[0].Set(&resource{name: "own", j: &j})
			Captured{}.Run(func() {
				for i, l := range all {
					l.Set(&resource{name: fmt.Sprint(i), j: &j, close: closes[i]})
				}
			})
			t.Error("Goexit in a Close did not end the goroutine")
		})
	})
	waitFor(t, &j, "close 3", "close 2", "close 1", "close 0", "close own")
	if len(reports) != 2 {
		t.Errorf("%q", reports)
	}
}

func closeByGoexit() error { runtime.Goexit(); return nil }

func TestManyGoroutinesRunWithOneCaptured(t *testing.T) {
	texts := NewInheritable[string](nil)
	copies := NewInheritable(func(s []int) []int { return append([]int(nil), s...) })
	var closed atomic.Int32
	once := NewInheritable(func(f closingFunc) closingFunc { return func() { closed.Add(1) } })
	var found atomic.Int32
	ended(func() {
		texts.Set("shared")
		copies.Set([]int{1, 2, 3})
		once.Set(func() {})
		c := Capture()
		var wg sync.WaitGroup
		for i := 0; i < 50; i++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for k := 0; k < 20; k++ {
					c.Run(func() {
						if texts.Get() != "shared" || len(copies.Get()) != 3 {
							t.Error("other values")
						}
						texts.Set(fmt.Sprint(i, k)) // this goroutine's alone
						if once.Get() != nil {
							found.Add(1)
						}
					})
				}
			}()
		}
		wg.Wait()
	})
	if found.Load() != 1 || closed.Load() != 1 {
		t.Errorf("found %d times, closed %d times", found.Load(), closed.Load())
	}
}

func init() {
	scenarios["os.Exit within Run"] = func() {
		var j journal
		first, second := NewInheritable[*resource](nil), NewInheritable[*resource](nil)
		note := func(name string) *resource {
			return &resource{name: name, j: &j, close: func() error { fmt.Println("close", name); return nil }}
		}
		first.Set(note("first"))
		second.Set(note("second"))
		AtExit(func() { fmt.Println("handler with", GetSafe(), first.Get().name) })
		Captured{context: "captured", hasContext: true}.Run(func() {
			first.Set(note("within"))
			Captured{context: "inner", hasContext: true}.Run(func() {
				first.Set(note("innermost"))
				os.Exit(3)
			})
		})
	}
}

func TestExitWithinRunClosesWhatWasPutAside(t *testing.T) {
	needsCodeMode(t)
	code, output := child(t, "os.Exit within Run")
	want(t, code, output, 3, "handler with inner innermost\nclose innermost\nclose within\nclose second\nclose first\n")
}

func TestLaterInheritableLocalsAreCapturedToo(t *testing.T) {
	var all []*Local[int]
	for i := 0; i < inlineSlots+2; i++ {
		all = append(all, NewInheritable(func(n int) int { return -n }))
	}
	ended(func() {
		for i, l := range all {
			l.Set(i + 1)
		}
		run := Wrap(func() {
			for i, l := range all {
				if l.Get() != -i-1 {
					t.Errorf("local %d is %d", i, l.Get())
				}
			}
			Reset()
		})
		run()
		for i, l := range all {
			if l.Get() != i+1 {
				t.Errorf("local %d is %d afterwards", i, l.Get())
			}
		}
	})
}

func TestCaptureOfNothingAllocatesNothing(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if n := testing.AllocsPerRun(100, func() { Capture() }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		if lookup() != nil {
			t.Error("Capture has given a record to a goroutine that uses nothing")
		}
	}()
	<-done
	if panics(func() { Wrap(nil) }) == nil {
		t.Error("Wrap(nil) went through")
	}
}
