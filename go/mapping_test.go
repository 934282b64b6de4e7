//go:build linux && (amd64 || arm64)

package exeunt

import (
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// A program's code is one mapping, also when calls in it are redirected. Profiles list every
// mapping, and tools search functions by mapping.
func TestCodeStaysOneMapping(t *testing.T) {
	code, output := child(t, "mapping")
	if code != 0 || !strings.Contains(output, "before and after: 1") {
		t.Errorf("exit code %d:\n%s", code, output)
	}
}

func init() {
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
