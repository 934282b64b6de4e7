//go:build linux && (amd64 || arm64)

package kinds

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"

	"exeunt.invalid/exeunt/internal/kinds/ends"
)

var kinds = flag.String("kinds", "", "the kinds of build to test, with commas between them")

func kind(t *testing.T, name string) {
	t.Helper()
	for _, wanted := range strings.Split(*kinds, ",") {
		if wanted == name {
			return
		}
	}
	t.Skip("-kinds does not name " + name)
}

func TestTheKindsExist(t *testing.T) {
	if *kinds == "" {
		return
	}
	known := "asan msan pgo c-shared c-archive plugin gdb"
	for _, wanted := range strings.Split(*kinds, ",") {
		if !strings.Contains(" "+known+" ", " "+wanted+" ") {
			t.Errorf("%q is none of: %s", wanted, known)
		}
	}
}

// run returns what a command printed, and its exit code.
func run(t *testing.T, words ...string) (output string, code int) {
	t.Helper()
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v", words, err)
	} else if err != nil {
		code = exit.ExitCode()
	}
	return string(out), code
}

func mustRun(t *testing.T, words ...string) string {
	t.Helper()
	out, code := run(t, words...)
	if code != 0 {
		t.Fatalf("%q: exit code %d\n%s", words, code, out)
	}
	return out
}

// build builds one of the programs beside this file and returns the path of what was built.
func build(t *testing.T, program string, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), program)
	mustRun(t, append(append([]string{"go", "build", "-o", out}, flags...), "./"+program)...)
	return out
}

func compile(t *testing.T, words ...string) {
	t.Helper()
	mustRun(t, append(strings.Fields(mustRun(t, "go", "env", "CC")), words...)...)
}

func want(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got:\n%s\nwanted:\n%s", got, want)
	}
}

const checked = "checked\nhandler of main: main returned\n"

func TestAddressSanitizer(t *testing.T) {
	kind(t, "asan")
	want(t, mustRun(t, build(t, "program", "-asan")), checked)
}

func TestMemorySanitizer(t *testing.T) {
	kind(t, "msan")
	want(t, mustRun(t, build(t, "program", "-msan")), checked)
}

func TestProfileGuidedOptimisation(t *testing.T) {
	kind(t, "pgo")
	path := filepath.Join(t.TempDir(), "profile")
	profile, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := pprof.StartCPUProfile(profile); err != nil {
		t.Fatal(err)
	}
	for turn := 0; turn < 20; turn++ {
		if err := ends.Check(); err != nil {
			t.Error(err)
		}
	}
	pprof.StopCPUProfile()
	if err := profile.Close(); err != nil {
		t.Fatal(err)
	}
	program := build(t, "program", "-pgo="+path)
	if info := mustRun(t, "go", "version", "-m", program); !strings.Contains(info, "-pgo") {
		t.Errorf("built without the profile:\n%s", info)
	}
	want(t, mustRun(t, program), checked)
}

// In C each call ends when it returns, on the main thread and on another one.
const programInC = `
#include "library.h"
#include <pthread.h>

static void *thread(void *unused) { Enter(3); Enter(4); return Check() ? 0 : unused; }

int main(void)
{
	pthread_t other;
	void *result = 0;
	Enter(1);
	Enter(2);
	if (Check() || pthread_create(&other, 0, thread, &other) || pthread_join(other, &result))
		return 1;
	return result != &other;
}
`

const outputInC = "1 found 0, leaves 1\n2 found 0, leaves 2\n3 found 0, leaves 3\n4 found 0, leaves 4\n"

func TestSharedLibraryForC(t *testing.T) {
	kind(t, "c-shared")
	inC(t, "c-shared", "liblibrary.so")
}

func TestArchiveForC(t *testing.T) {
	kind(t, "c-archive")
	inC(t, "c-archive", "liblibrary.a")
}

func inC(t *testing.T, mode, name string) {
	directory := t.TempDir()
	library, source, program := filepath.Join(directory, name), filepath.Join(directory, "main.c"), filepath.Join(directory, "program")
	mustRun(t, "go", "build", "-buildmode="+mode, "-o", library, "./library")
	if err := os.Rename(filepath.Join(directory, "liblibrary.h"), filepath.Join(directory, "library.h")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(source, []byte(programInC), 0o666); err != nil {
		t.Fatal(err)
	}
	compile(t, "-o", program, source, library, "-pthread", "-Wl,-rpath,"+directory)
	for turn := 0; turn < 3; turn++ {
		want(t, mustRun(t, program), outputInC)
	}
}

// A plugin has a copy of the runtime's code, in which nothing is redirected. So ends of goroutines that
// the plugin's code has started, or that it ends, are noticed late.
func TestPluginInAProgramWithTheModule(t *testing.T) {
	kind(t, "plugin")
	opened := build(t, "plugin", "-buildmode=plugin")
	want(t, mustRun(t, build(t, "host"), opened), `host: <nil>
host's goroutine: the handler ran
Goexit: 500 handlers, 0 wrong
plugin's goroutine: 500 handlers, 0 wrong
plugin's goroutine, Goexit: 500 handlers, 0 wrong
plugin's coroutine: 500 handlers, 0 wrong
host: <nil>
`)
	out := mustRun(t, build(t, "stranger"), opened)
	inOrder(t, out, "exeunt: goroutine exits cannot be redirected in this program", "and nothing was changed")
}

func TestGdb(t *testing.T) {
	kind(t, "gdb")
	program := build(t, "program")
	script := filepath.Join(runtime.GOROOT(), "src/runtime/runtime-gdb.py")
	// A goroutine that stands at a breakpoint for long is preempted when it goes on, before its next
	// instruction, and another thread would hit the same breakpoint again. So each is a breakpoint for
	// one time. In the end the program runs on without gdb, which may lose a process whose threads end
	// all at once ("Couldn't get registers: No such process").
	out := mustRun(t, "gdb", "-nx", "-batch", "-iex", "set auto-load safe-path /", "-iex", "set debuginfod enabled off",
		"-ex", "source "+script,
		"-ex", "tbreak main.armed", "-ex", "run wait", "-ex", "info goroutines", "-ex", "bt",
		"-ex", "tbreak main.handler", "-ex", "continue", "-ex", "goroutine all bt", "-ex", "echo <handler>\\n", "-ex", "bt",
		"-ex", "detach", program)
	armed, handler, _ := strings.Cut(out, "<handler>")
	inOrder(t, armed, "main.armed ()", "running", "main.armed ()", "main.entry (", "runtime.goexit ()", "main.keep (", "runtime.goexit ()")
	inOrder(t, handler, "main.handler (", "main.entry.func1 ()", "exeunt.drainGoroutine ()", "exeunt.returnHookSlow ()", "runtime.goexit ()",
		"handler of main: main returned")
	if n := strings.Count(armed, "main.keep ("); n != 3 {
		t.Errorf("%d of 3 waiting goroutines have a stack down to their code", n)
	}
	if t.Failed() {
		t.Log(out)
	}
}

func inOrder(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		_, after, found := strings.Cut(text, part)
		if !found {
			t.Errorf("%q is missing, or not after what comes before it", part)
			return
		}
		text = after
	}
}
