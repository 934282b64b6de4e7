//go:build linux || amd64 || arm64

package exeunt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A scenario is code that must not run in the process of the tests: it exits, crashes, or has
// system calls refused. It runs in a child process, on the main goroutine: the same binary, with
// the scenario's name in its environment.
var scenarios = map[string]func(){}

const (
	scenarioVariable = "EXEUNT_TEST_SCENARIO"
	// Set: use the map although the spare words could be used.
	mapVariable = "EXEUNT_TEST_MAP"
	// A command that runs a binary of this architecture if the system cannot, such as
	// qemu-aarch64-static -cpu max.
	runnerVariable = "EXEUNT_TEST_EXEC"
	// The flags of `go test`, one a line, for programs that tests build.
	flagsVariable = "EXEUNT_TEST_BUILD_FLAGS"
)

// This runs before any init function.
var _ = func() (none struct{}) {
	forceMap = os.Getenv(mapVariable) != ""
	noInstallAtInit = os.Getenv(scenarioVariable) != ""
	return
}()

// collectUnlessInCodeMode runs the garbage collector again and again in the modes that notice ends by it.
func collectUnlessInCodeMode() {
	if Install() == nil && InForce() != Code {
		go collectForEver()
	}
}

func collectForEver() {
	for {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
}

func TestMain(m *testing.M) {
	if name := os.Getenv(scenarioVariable); name != "" {
		scenario := scenarios[name]
		if scenario == nil {
			fmt.Println("no scenario", name)
			os.Exit(97)
		}
		if m, _ := chooseMode(nil); m == Collected {
			go collectForEver()
		}
		scenario()
		fmt.Println("the scenario returned")
		os.Exit(0)
	}
	if err := Install(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	collectUnlessInCodeMode()
	os.Exit(m.Run())
}

// binary runs a program, and returns its exit code and all that it printed.
func binary(t *testing.T, environment []string, name string, arguments ...string) (code int, output string) {
	t.Helper()
	words := append(strings.Fields(os.Getenv(runnerVariable)), name)
	words = append(words, arguments...)
	// A program that hangs prints its stacks and fails.
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, words[0], words[1:]...)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGQUIT) }
	command.WaitDelay = 10 * time.Second
	command.Env = append(os.Environ(), environment...)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	err := command.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v\n%s", words, err, out.String())
	}
	return command.ProcessState.ExitCode(), out.String()
}

func child(t *testing.T, scenario string, environment ...string) (code int, output string) {
	t.Helper()
	return binary(t, append(environment, scenarioVariable+"="+scenario), os.Args[0])
}

func want(t *testing.T, gotCode int, gotOutput string, code int, output string) {
	t.Helper()
	if gotCode != code || gotOutput != output {
		t.Errorf("exit code %d, output:\n%s\nwanted exit code %d, output:\n%s", gotCode, gotOutput, code, output)
	}
}

// needsCodeMode skips a test of what other modes cannot do.
func needsCodeMode(t *testing.T) {
	t.Helper()
	if InForce() != Code {
		t.Skipf("not in %v mode", InForce())
	}
}

// needsPromptEnds skips a test that waits for very many ends, one after the other, where each needs a
// collection.
func needsPromptEnds(t *testing.T) {
	t.Helper()
	if inCollectedMode() {
		t.Skip("in collected mode each end needs a collection, and this test waits for very many")
	}
}

// A journal can be written by several goroutines.
type journal struct {
	sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.Lock()
	j.lines = append(j.lines, line)
	j.Unlock()
}

func (j *journal) length() int {
	j.Lock()
	defer j.Unlock()
	return len(j.lines)
}

func (j *journal) want(t *testing.T, lines ...string) {
	t.Helper()
	j.Lock()
	defer j.Unlock()
	if got, want := strings.Join(j.lines, "; "), strings.Join(lines, "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// ended runs body on a new goroutine, and returns when its handlers have run. Its own handler is
// registered before body runs, and therefore runs last.
func ended(body func()) {
	done := make(chan struct{})
	go func() {
		AtExit(func() { close(done) })
		body()
	}()
	<-done
}

// panics calls f and returns the value with which it panics.
func panics(f func()) (value any) {
	defer func() { value = recover() }()
	f()
	return nil
}

// reported collects what f would report on standard error.
func reported(f func()) (reports []string) {
	var mu sync.Mutex
	OnPanic(func(value any, stack []byte) {
		mu.Lock()
		reports = append(reports, fmt.Sprint(value)+"\n"+string(stack))
		mu.Unlock()
	})
	defer OnPanic(nil)
	f()
	mu.Lock()
	defer mu.Unlock()
	return reports
}

// waitUntil waits for a condition that another goroutine brings about.
func waitUntil(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatal("it has not happened in ten seconds")
		}
	}
}
