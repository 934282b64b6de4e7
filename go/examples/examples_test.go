//go:build linux && (amd64 || arm64)

// Package examples tests the programs in this folder.
package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestExamplesPrintWhatTheyPromise(t *testing.T) {
	for name, want := range map[string]string{
		"requestid": "[a] loading /page-a\n[a] looking /page-a up in the cache\n[b] loading /page-b\n" +
			"[b] looking /page-b up in the cache\noutside of any request\n",
		"resources": "files while six workers run: 6\nfiles after they have ended: 0\n",
		"tracer":    "[work 0 cleanup 0]\n[work 1 cleanup 1]\n[work 2 cleanup 2]\n[work 3 cleanup 3]\ngoroutines: 4\n",
	} {
		t.Run(name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), name)
			build := exec.Command("go", "build", "-o", program, "./"+name)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			// EXEUNT_TEST_EXEC runs a binary of this architecture if the system cannot.
			words := append(strings.Fields(os.Getenv("EXEUNT_TEST_EXEC")), program)
			out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
			if err != nil || string(out) != want {
				t.Errorf("%v\ngot:\n%s\nwanted:\n%s", err, out, want)
			}
		})
	}
}
