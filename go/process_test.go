//go:build linux || amd64 || arm64

package exeunt

import (
	"fmt"
	"log"
	"os"
	"runtime"
	"strings"
	"testing"
)

func init() {
	say := func(line string) func() { return func() { fmt.Println(line) } }

	scenarios["os.Exit"] = func() {
		AtExit(say("first"))
		AtExit(say("second"))
		os.Exit(3)
	}
	scenarios["os.Exit with handlers that go wrong"] = func() {
		OnPanic(func(value any, _ []byte) { fmt.Println("reported:", value) })
		defer fmt.Println("os.Exit runs no deferred functions")
		AtExit(say("first"))
		AtExit(func() { fmt.Println("Goexit"); runtime.Goexit() })
		AtExit(func() { panic("a panic") })
		os.Exit(3)
	}
	scenarios["os.Exit elsewhere"] = func() {
		AtExit(say("main's: main is not ending"))
		go func() {
			AtExit(say("of the goroutine that calls os.Exit"))
			os.Exit(4)
		}()
		select {}
	}
	scenarios["os.Exit in a handler"] = func() {
		go func() {
			AtExit(say("left"))
			AtExit(func() { fmt.Println("exits"); os.Exit(5) })
		}()
		select {}
	}
	scenarios["log.Fatal"] = func() {
		AtExit(say("handler"))
		log.SetFlags(0)
		log.Fatal("fatal")
	}
	scenarios["Goexit of main"] = func() {
		collectUnlessInCodeMode()
		AtExit(func() {
			fmt.Println("main's handler")
			go func() {
				AtExit(func() { os.Exit(6) })
			}()
		})
		runtime.Goexit()
	}
	scenarios["unrecovered panic"] = func() {
		AtExit(say("never"))
		ended(func() {
			AtExit(say("never"))
			deep(3, func() { panic("nobody recovers this") })
		})
	}
	scenarios["default report"] = func() {
		ended(func() { AtExit(func() { handlerThatPanics() }) })
	}
}

func TestOsExitEndsTheGoroutineThatCallsIt(t *testing.T) {
	needsCodeMode(t)
	code, output := child(t, "os.Exit")
	want(t, code, output, 3, "second\nfirst\n")
	code, output = child(t, "os.Exit with handlers that go wrong")
	want(t, code, output, 3, "reported: a panic\nGoexit\nfirst\n")
	code, output = child(t, "os.Exit elsewhere")
	want(t, code, output, 4, "of the goroutine that calls os.Exit\n")
	code, output = child(t, "os.Exit in a handler")
	want(t, code, output, 5, "exits\nleft\n")
	code, output = child(t, "log.Fatal")
	want(t, code, output, 1, "fatal\nhandler\n")
}

func TestMainMayEndByGoexit(t *testing.T) {
	code, output := child(t, "Goexit of main")
	want(t, code, output, 6, "main's handler\n")
}

func TestAnUnrecoveredPanicKillsAsUsual(t *testing.T) {
	code, output := child(t, "unrecovered panic")
	if code != 2 || strings.Contains(output, "never\n") {
		t.Errorf("exit code %d:\n%s", code, output)
	}
	for _, part := range []string{"panic: nobody recovers this", "exeunt.deep(", "created by exeunt.invalid/exeunt.ended"} {
		if !strings.Contains(output, part) {
			t.Errorf("%q is not in:\n%s", part, output)
		}
	}
}

// In programs with cgo, Go does not detect deadlocks (golang/go#25538). The program is therefore
// built without cgo, however this test was built.
func TestADeadlockIsStillFound(t *testing.T) {
	code, output := binary(t, nil, mainend(t, nil, "CGO_ENABLED=0"), "deadlock")
	if code != 2 || !strings.HasPrefix(output, "main ends\nfatal error: all goroutines are asleep - deadlock!\n") {
		t.Errorf("exit code %d:\n%s", code, output)
	}
}

func TestPanicsOfHandlersGoToStandardErrorByDefault(t *testing.T) {
	code, output := child(t, "default report")
	if code != 0 || !strings.HasPrefix(output, "exeunt: panic while a goroutine was ending: broken\n\n") ||
		!strings.Contains(output, "handlerThatPanics(") || !strings.HasSuffix(output, "the scenario returned\n") {
		t.Errorf("exit code %d:\n%s", code, output)
	}
}
