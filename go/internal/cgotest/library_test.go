//go:build cgo && linux && (amd64 || arm64)

package cgotest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Initialization goes on in the background while main runs, and the first calls wait for it.
const programInC = `
#include "library.h"
#include <pthread.h>

static void *thread(void *unused) { Enter(3); Enter(4); return unused; }

int main(void)
{
	pthread_t other;
	Enter(1);
	Enter(2);
	if (pthread_create(&other, 0, thread, 0) || pthread_join(other, 0))
		return 1;
	return 0;
}
`

func TestCallsIntoALibraryEndEachAlsoThoseThatCameDuringInitialisation(t *testing.T) {
	directory := t.TempDir()
	run := func(words ...string) string {
		t.Helper()
		command := exec.Command(words[0], words[1:]...)
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", words, err, out)
		}
		return string(out)
	}
	source, archive, program := filepath.Join(directory, "main.c"), filepath.Join(directory, "library.a"), filepath.Join(directory, "program")
	if err := os.WriteFile(source, []byte(programInC), 0o666); err != nil {
		t.Fatal(err)
	}
	run("go", "build", "-buildmode=c-archive", "-o", archive, "./library")
	compiler := strings.Fields(run("go", "env", "CC"))
	run(append(compiler, "-o", program, source, archive, "-pthread")...)
	for turn := 0; turn < 5; turn++ {
		got := run(append(strings.Fields(os.Getenv("EXEUNT_TEST_EXEC")), program)...)
		// The test cannot see which of these lines a late end writes: each is written before the
		// next call begins.
		want := "enter 1 finds 0\nleave 1\nenter 2 finds 0\nleave 2\nenter 3 finds 0\nleave 3\nenter 4 finds 0\nleave 4\n"
		if got != want {
			t.Errorf("got:\n%s\nwanted:\n%s", got, want)
		}
	}
}
