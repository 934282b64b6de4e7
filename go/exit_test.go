//go:build linux || amd64 || arm64

package exeunt

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestHandlersRunLastInFirstOutHoweverTheGoroutineEnds(t *testing.T) {
	for name, end := range map[string]func(){
		"return":          func() {},
		"Goexit":          runtime.Goexit,
		"deep Goexit":     func() { deep(100, runtime.Goexit) },
		"recovered panic": func() { defer func() { _ = recover() }(); panic("recovered") },
		"panic and Goexit": func() {
			defer runtime.Goexit()
			defer func() { _ = recover() }()
			panic("recovered")
		},
	} {
		t.Run(name, func(t *testing.T) {
			var j journal
			ended(func() {
				defer j.add("deferred")
				AtExit(func() { j.add("first") })
				AtExit(func() { j.add("second") })
				end()
			})
			j.want(t, "deferred", "second", "first")
		})
	}
}

// deep calls f below n large frames.
//
//go:noinline
func deep(n int, f func()) byte {
	var frame [1024]byte
	if n == 0 {
		f()
		return 0
	}
	frame[n%1024] = deep(n-1, f)
	return frame[(n+1)%1024]
}

// These tests run in a child process, since one of them has to fail.
func init() {
	scenarios["tests that end early"] = func() {
		collectUnlessInCodeMode()
		ran := make(chan struct{}, 2)
		ends := func(how string, end func(*testing.T)) testing.InternalTest {
			return testing.InternalTest{Name: how, F: func(t *testing.T) {
				AtExit(func() {
					fmt.Println("handler of the test that ends by", how)
					ran <- struct{}{}
				})
				end(t)
				fmt.Println("never")
			}}
		}
		all := func(string, string) (bool, error) { return true, nil }
		testing.Main(all, []testing.InternalTest{
			ends("FailNow", (*testing.T).FailNow),
			ends("SkipNow", (*testing.T).SkipNow),
			// For its caller a test is over before its goroutine has ended.
			{Name: "both handlers have run", F: func(*testing.T) { <-ran; <-ran }},
		}, nil, nil)
	}
}

func TestTestsThatEndByFailNowOrSkipNowRunTheirHandlers(t *testing.T) {
	code, output := child(t, "tests that end early")
	for _, line := range []string{"handler of the test that ends by FailNow", "handler of the test that ends by SkipNow"} {
		if code != 1 || strings.Count(output, line+"\n") != 1 || strings.Contains(output, "never") {
			t.Errorf("exit code %d, %q is not there once:\n%s", code, line, output)
		}
	}
}

func TestHandlersRunOnTheirGoroutineAndMayDoAnything(t *testing.T) {
	var j journal
	local := NewLocal[string]()
	ended(func() {
		id := ID()
		local.Set("own")
		AtExit(func() { j.add("goes on after Goexit with " + local.Get()) })
		AtExit(func() {
			defer j.add("deferred in a handler")
			runtime.Goexit()
		})
		AtExit(func() { AtExit(func() { j.add("registered by a handler") }) })
		AtExit(func() {
			if ID() != id || local.Get() != "own" {
				j.add("another goroutine")
			}
			values := make(chan int)
			go func() { values <- len(make([]byte, 1<<20)) }()
			<-values // blocks
			runtime.GC()
			deep(200, func() {}) // grows the stack
		})
	})
	j.want(t, "registered by a handler", "deferred in a handler", "goes on after Goexit with own")
}

func TestEveryHandlerMayCallGoexitAfterAnyEnd(t *testing.T) {
	for name, end := range map[string]func(){"return": func() {}, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			count := 0
			ended(func() {
				for i := 0; i < 50; i++ {
					AtExit(func() { count++; runtime.Goexit() })
				}
				end()
			})
			if count != 50 {
				t.Errorf("%d of 50 handlers ran", count)
			}
		})
	}
}

func TestAPanicInAHandlerIsReportedWithItsStackAndTheOthersRun(t *testing.T) {
	var j journal
	reports := reported(func() {
		ended(func() {
			AtExit(func() { j.add("runs") })
			AtExit(func() { handlerThatPanics() })
			AtExit(func() { panic(errors.New("second")) })
			runtime.Goexit()
		})
	})
	j.want(t, "runs")
	if len(reports) != 2 {
		t.Fatalf("%d reports", len(reports))
	}
	if !strings.HasPrefix(reports[0], "second\n") || !strings.HasPrefix(reports[1], "broken\n") {
		t.Errorf("%q", reports)
	}
	functions := []string{"panic(", "exeunt.handlerThatPanics(", "exeunt.(*record).runLast(", "exeunt.drainGoexit(", "runtime.Goexit("}
	if inSlotMode() {
		functions = append(functions[:3], "exeunt.drainAtFoot(", "exeunt.exitTrampoline(")
	}
	if inCollectedMode() {
		functions = append(functions[:3], "exeunt.drainEnded(")
	}
	for _, function := range functions {
		if !strings.Contains(reports[1], function) {
			t.Errorf("%s is not in the stack:\n%s", function, reports[1])
		}
	}
}

//go:noinline
func handlerThatPanics() { panic("broken") }

func TestTheReportItselfMayPanic(t *testing.T) {
	OnPanic(func(any, []byte) { panic("again") })
	defer OnPanic(nil)
	ran := false
	ended(func() {
		AtExit(func() { ran = true })
		AtExit(func() { panic("once") })
	})
	if !ran {
		t.Error("the other handler has not run")
	}
}

func TestTracebacksAndCallersFromAHandlerAreComplete(t *testing.T) {
	for name, end := range map[string]func(){"return": func() {}, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			var stack, outermost string
			ended(func() {
				AtExit(func() {
					text := make([]byte, 1<<16)
					stack = string(text[:runtime.Stack(text, false)])
					pcs := make([]uintptr, 100)
					frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs)])
					for {
						frame, more := frames.Next()
						outermost = frame.Function
						if !more {
							break
						}
					}
					// of all goroutines, which stops the world while this one is here
					runtime.Stack(make([]byte, 1<<20), true)
				})
				end()
			})
			last, creator := "runtime.goexit", "TestTracebacks"
			if inSlotMode() {
				last = reflect.TypeOf(record{}).PkgPath() + ".exitTrampoline"
				if name == "Goexit" {
					creator = "endedUnnoticed" // the drain has a goroutine of its own
				}
			}
			if inCollectedMode() {
				creator = "noticeEnds"
			}
			if outermost != last {
				t.Errorf("the outermost function is %s", outermost)
			}
			if !strings.Contains(stack, creator) || !strings.Contains(stack, "created by") {
				t.Errorf("incomplete:\n%s", stack)
			}
			if name == "Goexit" && InForce() == Code && !strings.Contains(stack, "runtime.Goexit(") {
				t.Errorf("no Goexit:\n%s", stack)
			}
		})
	}
}

func TestLockedThreadsEndWithTheirHandlers(t *testing.T) {
	var j journal
	ended(func() {
		runtime.LockOSThread() // never unlocked: the thread ends too
		AtExit(func() { j.add("ran") })
	})
	j.want(t, "ran")
}

func TestIDsAreUniqueAndStayUntilUnload(t *testing.T) {
	var mu sync.Mutex
	seen := map[int64]bool{}
	note := func() {
		id := ID()
		mu.Lock()
		defer mu.Unlock()
		if id == 0 || seen[id] {
			t.Errorf("ID %d is not new", id)
		}
		seen[id] = true
	}
	var wg sync.WaitGroup
	for i := 0; i < 1000; i++ {
		wg.Add(1)
		go func() {
			AtExit(wg.Done)
			note()
			id := ID()
			AtExit(func() {
				if ID() != id {
					t.Error("the ID changed before the end")
				}
			})
		}()
	}
	wg.Wait()
	done := make(chan struct{})
	go func() {
		note()
		AtExit(func() { t.Error("this handler was unloaded") })
		Unload()
		note()
		AtExit(func() { close(done) })
	}()
	<-done
}

func TestResetForgetsValuesAndKeepsHandlers(t *testing.T) {
	var j journal
	local := NewLocal[int]()
	ended(func() {
		AtExit(func() { j.add("handler") })
		local.Set(1)
		id := ID()
		Reset()
		if _, ok := local.Lookup(); ok || local.Get() != 0 || ID() != id {
			t.Error("a value, or another ID, after Reset")
		}
	})
	j.want(t, "handler")
	ended(func() { Reset() }) // with nothing to remove
}

func TestUnloadMayBeCalledAnywhere(t *testing.T) {
	var j journal
	done := make(chan struct{})
	go func() {
		Unload() // before anything else
		AtExit(func() { j.add("dropped by the next one") })
		AtExit(func() { j.add("unloads"); Unload(); AtExit(func() { j.add("anew"); close(done) }) })
	}()
	<-done
	j.want(t, "unloads", "anew")

	l := NewLocal[*resource]()
	ended(func() {
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			id := ID()
			l.Set(&resource{name: "that unloads", j: &j, close: func() error {
				Unload()
				l.Set(&resource{name: "set meanwhile", j: &j})
				Reset()
				return nil
			}})
			Reset()
			if ID() == id {
				j.add("the same ID")
			}
		}()
		<-finished
	})
	j.want(t, "unloads", "anew", "close that unloads", "close set meanwhile")
}

func TestAFunctionThatACloseRegistersDuringUnloadRuns(t *testing.T) {
	var j journal
	l := NewLocal[*resource]()
	ended := make(chan struct{})
	go func() {
		AtExit(func() { j.add("forgotten") })
		l.Set(&resource{name: "that registers", j: &j, close: func() error {
			AtExit(func() { j.add("registered meanwhile"); close(ended) })
			return nil
		}})
		Unload()
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it did not run")
	}
	j.want(t, "close that registers", "registered meanwhile")
}

func TestACloseThatCallsGoexitKeepsNoOtherFromBeingClosed(t *testing.T) {
	first, second, third := NewLocal[*resource](), NewLocal[*resource](), NewLocal[*resource]()
	for name, end := range map[string]func(){"return": func() {}, "Reset": Reset, "Unload": Unload} {
		t.Run(name, func(t *testing.T) {
			var j journal
			closed := make(chan struct{})
			goexit := func() error { runtime.Goexit(); return nil }
			go func() {
				first.Set(&resource{name: "first", j: &j, close: func() error { close(closed); return nil }})
				second.Set(&resource{name: "second", j: &j, close: goexit})
				third.Set(&resource{name: "third", j: &j, close: goexit})
				end()
			}()
			select {
			case <-closed:
			case <-time.After(10 * time.Second):
				t.Error("the first one was not closed")
			}
			j.want(t, "close third", "close second", "close first")
		})
	}
}

func TestAtExitWantsAFunction(t *testing.T) {
	if value := panics(func() { AtExit(nil) }); value == nil {
		t.Error("AtExit(nil) went through")
	}
}

func TestNothingIsSeenByTheNextGoroutine(t *testing.T) {
	needsPromptEnds(t) // "a stale record" is this test where ends are noticed late
	local := NewLocal[int]()
	for i := 0; i < 10000; i++ {
		end := func() {}
		if i%3 == 0 {
			end = runtime.Goexit
		}
		ended(func() {
			if v, ok := local.Lookup(); ok {
				t.Errorf("goroutine %d finds %d", i, v)
			}
			local.Set(i + 1)
			if i%7 == 0 {
				// Leaves a stack of another size to the next owner of the descriptor.
				deep(8, func() {})
			}
			end()
		})
	}
}

// The return of the main goroutine needs a program of its own: a test binary ends by os.Exit.
func TestReturnFromMainRunsHandlers(t *testing.T) {
	needsCodeMode(t)
	var flags []string
	for _, flag := range strings.Split(os.Getenv(flagsVariable), "\n") {
		if flag != "" {
			flags = append(flags, flag)
		}
	}
	program := mainend(t, flags)
	code, output := binary(t, nil, program)
	want(t, code, output, 0, "main ends\nhandler that calls Goexit\nhandler of main, value 42 ending: main returned\nclosed\n")
	code, output = binary(t, nil, program, "exit")
	want(t, code, output, 7, "main ends\nhandler that calls Goexit\nhandler of main, value 42 ending: process exit\nclosed\n")
}

// mainend builds that program.
func mainend(t *testing.T, flags []string, environment ...string) (program string) {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		if runtime.GOOS != "windows" { // under wine the go command is not on PATH
			t.Fatal(err)
		}
		t.Skip("it builds a program, and no go command is here:", err)
	}
	program = filepath.Join(t.TempDir(), "mainend")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	build := exec.Command("go", append(append([]string{"build", "-o", program}, flags...), "./internal/mainend")...)
	build.Env = append(append(os.Environ(), "GOFLAGS="), environment...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}
