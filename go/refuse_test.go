//go:build linux && (amd64 || arm64)

package exeunt

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"exeunt.invalid/exeunt/internal/patch"
)

// A filter of system calls simulates a kernel or a container that refuses them.
const (
	prSetNoNewPrivileges = 38
	seccompSetFilter     = 1
	filterAllThreads     = 1
	retErrno             = 0x00050000
	retAllow             = 0x7fff0000
	loadNumber           = 0x20 // BPF_LD|BPF_W|BPF_ABS, offset 0: the number
	jumpIfEqual          = 0x15 // BPF_JMP|BPF_JEQ|BPF_K
	answer               = 0x06 // BPF_RET|BPF_K
)

type systemCalls struct{ membarrier, mprotect, seccomp, prctl uintptr }

var numbers64 = map[string]systemCalls{
	"amd64": {membarrier: 324, mprotect: 10, seccomp: 317, prctl: 157},
	"arm64": {membarrier: 283, mprotect: 226, seccomp: 277, prctl: 167},
}[runtime.GOARCH]

// filterInstruct is struct sock_filter of linux/filter.h.
type filterInstruct struct {
	code uint16
	//lint:ignore U1000 always 0 here, and read by the kernel
	jt uint8
	jf uint8
	k  uint32
}

// refuse makes the kernel fail these system calls with EPERM, in all threads. mprotect fails only
// with PROT_EXEC: stacks of new threads need it.
func refuse(calls ...uintptr) {
	program := []filterInstruct{{code: loadNumber, k: 0}}
	for _, number := range calls {
		if number == numbers64.mprotect {
			program = append(program,
				filterInstruct{code: jumpIfEqual, jf: 4, k: uint32(number)},
				filterInstruct{code: loadNumber, k: 32}, // the third argument's lower half
				filterInstruct{code: 0x45, jf: 1, k: 4}, // BPF_JSET: PROT_EXEC
				filterInstruct{code: answer, k: retErrno | uint32(syscall.EPERM)},
				filterInstruct{code: loadNumber, k: 0},
			)
			continue
		}
		program = append(program,
			filterInstruct{code: jumpIfEqual, jf: 1, k: uint32(number)},
			filterInstruct{code: answer, k: retErrno | uint32(syscall.EPERM)})
	}
	program = append(program, filterInstruct{code: answer, k: retAllow})
	list := struct {
		length uint16
		filter *filterInstruct
	}{uint16(len(program)), &program[0]}
	if _, _, errno := syscall.RawSyscall6(numbers64.prctl, prSetNoNewPrivileges, 1, 0, 0, 0, 0); errno != 0 {
		fmt.Println("no filter can be set: prctl:", errno)
		os.Exit(98)
	}
	if _, _, errno := syscall.RawSyscall(numbers64.seccomp, seccompSetFilter, filterAllThreads, uintptr(unsafe.Pointer(&list))); errno != 0 {
		fmt.Println("no filter can be set: seccomp:", errno)
		os.Exit(98)
	}
	runtime.KeepAlive(program)
}

// code returns the bytes of the calls that are redirected.
func code() []byte {
	found, err := locate()
	if err != nil {
		fmt.Println("locate:", err)
		os.Exit(99)
	}
	var all []byte
	for _, r := range found {
		all = append(all, image.Bytes(r.at, 8)...)
	}
	return all
}

func init() {
	refused := func(calls ...uintptr) func() {
		return func() {
			before := code()
			refuse(calls...)
			err := Install()
			fmt.Println(err)
			if again := Install(); again != err {
				fmt.Println("another error:", again)
			}
			fmt.Println("untouched:", bytes.Equal(before, code()))
			local := NewLocal[int]()
			fmt.Println("AtExit:", panics(func() { AtExit(func() { fmt.Println("runs") }) }) == any(err))
			fmt.Println("Set:", panics(func() { local.Set(1) }) == any(err))
			fmt.Println("With:", panics(func() { With(1, func() {}) }) == any(err))
			fmt.Println("ID:", panics(func() { ID() }) == any(err))
			fmt.Println("Get:", local.Get(), GetSafe())
			Reset()
			Unload()
			done := make(chan bool)
			Go(func() { defer close(done); runtime.Goexit() })
			<-done
		}
	}
	scenarios["membarrier refused"] = refused(numbers64.membarrier)
	scenarios["mprotect refused"] = func() {
		refuse(numbers64.mprotect)
		if err := Install(); err != nil {
			fmt.Println(err)
		}
		ended(func() { AtExit(func() { fmt.Println("ran") }) })
	}
	scenarios["patched by somebody else"] = func() {
		found, err := locate()
		if err != nil {
			fmt.Println(err)
		}
		// This simulates another copy of this package: the call in runtime.Goexit leads to its
		// function.
		last := found[1]
		if err := patch.Retarget(last.at, last.target, probeAddress()); err != nil {
			fmt.Println(err)
		}
		before := image.Bytes(found[0].at, 8)
		before = append([]byte(nil), before...)
		fmt.Println(Install())
		fmt.Println("untouched:", bytes.Equal(before, image.Bytes(found[0].at, 8)))
	}
	scenarios["the last call changes meanwhile"] = func() {
		before := code()
		found, err := locate()
		if err != nil {
			fmt.Println(err)
		}
		// Every call was found and checked, but the last one cannot be changed any more.
		found[len(found)-1].target++
		err = apply(found)
		fmt.Println(err)
		fmt.Println("untouched:", bytes.Equal(before, code()))
	}
}

// An emulator may not support filters. Where programs run natively, a system without filters leaves
// this untested, so the test fails.
func childWithAFilter(t *testing.T, scenario string) (code int, output string) {
	t.Helper()
	code, output = child(t, scenario)
	if code == 98 {
		refused := "no filter of system calls can be set, so none can be refused: " + output
		if os.Getenv(runnerVariable) != "" {
			t.Skip(refused)
		}
		t.Fatal(refused)
	}
	return code, output
}

func TestARefusedSystemCallLeavesTheProgramAsItWas(t *testing.T) {
	needsCodeMode(t)
	codeOf, output := childWithAFilter(t, "membarrier refused")
	lines := strings.SplitN(output, "\n", 2)
	for _, part := range []string{"exeunt: goroutine exits cannot be redirected", runtime.Version(), runtime.GOARCH, "nothing was changed",
		"runtime.goexit+", "membarrier was refused", "operation not permitted"} {
		if !strings.Contains(lines[0], part) {
			t.Errorf("%q is not in %q", part, lines[0])
		}
	}
	if len(lines) != 2 || lines[1] != "untouched: true\nAtExit: true\nSet: true\nWith: true\nID: true\nGet: 0 <nil>\nthe scenario returned\n" {
		t.Errorf("exit code %d:\n%s", codeOf, output)
	}
}

func TestCodeIsWrittenWhereMprotectIsRefused(t *testing.T) {
	needsCodeMode(t)
	codeOf, output := childWithAFilter(t, "mprotect refused")
	want(t, codeOf, output, 0, "ran\nthe scenario returned\n")
}

func TestCodeThatSomebodyElseHasPatchedIsRefused(t *testing.T) {
	needsCodeMode(t)
	codeOf, output := child(t, "patched by somebody else")
	if codeOf != 0 || !strings.Contains(output, "exeunt.probeEntry") || !strings.Contains(output, "untouched: true") {
		t.Errorf("exit code %d:\n%s", codeOf, output)
	}
}

func TestAFailureHalfwayIsUndone(t *testing.T) {
	needsCodeMode(t)
	codeOf, output := child(t, "the last call changes meanwhile")
	if codeOf != 0 || !strings.Contains(output, "the call no longer leads to the expected target") || !strings.Contains(output, "untouched: true") {
		t.Errorf("exit code %d:\n%s", codeOf, output)
	}
}
