//go:build linux && (amd64 || arm64)

package exeunt

import (
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// A program's code is one mapping, also when calls in it are redirected. Profiles list every
// mapping, and tools search functions by mapping.
func TestCodeStaysOneMapping(t *testing.T) {
	run := []string{"mapping"}
	if os.Getenv(runnerVariable) == "" { // user-mode QEMU has no list with the kind of a lock
		run = append(run, "mapping, locked in memory")
	}
	for _, scenario := range run {
		code, output := child(t, scenario)
		if code != 0 || !strings.Contains(output, "before and after: 1") {
			t.Errorf("%s: exit code %d:\n%s", scenario, code, output)
		}
	}
}

func init() {
	scenarios["mapping, locked in memory"] = func() {
		var start, end uintptr
		if _, err := fmt.Sscanf(codeMappings()[0], "%x-%x", &start, &end); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if _, _, errno := syscall.RawSyscall(syscall.SYS_MLOCK, start, end-start, 0); errno != 0 {
			fmt.Println("mlock:", errno)
			os.Exit(1)
		}
		scenarios["mapping"]()
	}
	scenarios["mapping"] = func() {
		before := codeMappings()
		if err := Install(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		after := codeMappings()
		if strings.Join(before, "\n") != strings.Join(after, "\n") {
			fmt.Println("other mappings after redirecting:\n" + strings.Join(after, "\n"))
			os.Exit(2)
		}
		fmt.Println("before and after:", len(after))
	}
}

// codeMappings lists the executable mappings of the file that contains this function.
func codeMappings() (code []string) {
	data, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	here := reflect.ValueOf(runtime.GC).Pointer()
	file := ""
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	for _, line := range lines {
		var start, end uintptr
		if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err == nil && start <= here && here < end {
			file = strings.Fields(line)[5]
		}
	}
	for _, line := range lines {
		fields := strings.Fields(line)
		if len(fields) == 6 && fields[5] == file && strings.Contains(fields[1], "x") {
			code = append(code, strings.Join(fields[:3], " "))
		}
	}
	return code
}
