//go:build amd64 || arm64

package site

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// Go's disassembler says where instructions begin. The comparison of a function stops at an
// instruction that the disassembler cannot decode: "?", and on amd64 those with a VEX or EVEX
// prefix, which it decodes as others.
func TestInstructionsBeginWhereGoSaysTheyDo(t *testing.T) {
	arch := map[string]decoder{"amd64": amd64{}, "arm64": arm64{}}[runtime.GOARCH]
	// This needs a separate program: `go test` strips its binaries of what the disassembler needs.
	program := filepath.Join(t.TempDir(), "program")
	if out, err := exec.Command("go", "build", "-ldflags=", "-o", program, "../mainend").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	tool := func(arguments ...string) *bufio.Scanner {
		command := exec.Command("go", append([]string{"tool"}, arguments...)...)
		// The tool itself runs here, whatever the program's architecture.
		command.Env = append(os.Environ(), "GOARCH=", "GOOS=")
		out, err := command.Output()
		if err != nil {
			t.Fatal(err)
		}
		return bufio.NewScanner(bytes.NewReader(out))
	}
	symbols := map[uintptr]string{}
	for names := tool("nm", program); names.Scan(); {
		if fields := strings.Fields(names.Text()); len(fields) == 3 && strings.EqualFold(fields[1], "t") {
			at, _ := strconv.ParseUint(fields[0], 16, 64)
			symbols[uintptr(at)] += " " + fields[2] + " "
		}
	}
	line := regexp.MustCompile(`^\s+\S+\s+0x([0-9a-f]+)\s+([0-9a-f]+)\s+(\S+)(?:\s+(\S+))?`)
	instructions, calls, wrong := 0, 0, 0
	known := true
	scanner := tool("objdump", "-s", `^(runtime|os)\.`, program)
	for scanner.Scan() {
		match := line.FindStringSubmatch(scanner.Text())
		if match == nil {
			known = true // a new function
			continue
		}
		known = known && match[3] != "?" && !strings.HasPrefix(match[2], "c4") && !strings.HasPrefix(match[2], "c5") && !strings.HasPrefix(match[2], "62")
		if !known {
			continue
		}
		at, _ := strconv.ParseUint(match[1], 16, 64)
		code, err := hex.DecodeString(match[2])
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOARCH == "arm64" { // printed as a number
			code[0], code[1], code[2], code[3] = code[3], code[2], code[1], code[0]
		}
		found, ok := arch.next(append(code[:len(code):len(code)], make([]byte, 16)...), uintptr(at))
		if !ok || len(found.code) != len(code) {
			t.Errorf("%s: %d bytes, ok=%v", scanner.Text(), len(found.code), ok)
			if wrong++; wrong > 20 {
				t.FailNow()
			}
			continue
		}
		instructions++
		if match[3] == "CALL" && strings.HasSuffix(match[4], "(SB)") {
			calls++
			if name := strings.TrimSuffix(match[4], "(SB)"); found.kind != Call || !strings.Contains(symbols[found.target], " "+name+" ") {
				t.Errorf("%s: calls %q", scanner.Text(), symbols[found.target])
			}
		}
	}
	if instructions < 20_000 || calls < 3_000 {
		t.Errorf("only %d instructions and %d calls were compared", instructions, calls)
	}
}

// A fakeImage consists of functions that are laid out one after the other.
type fakeImage struct {
	names  []string
	starts []uintptr
	code   []byte
}

func (m *fakeImage) add(name string, code ...byte) uintptr {
	start := 0x1000 + uintptr(len(m.code))
	m.names, m.starts = append(m.names, name), append(m.starts, start)
	m.code = append(m.code, code...)
	return start
}

func (m *fakeImage) image(arch string) Image {
	return Image{
		Arch: arch,
		Func: func(pc uintptr) (name string, entry uintptr) {
			for i, start := range m.starts {
				if pc >= start && pc < 0x1000+uintptr(len(m.code)) {
					name, entry = m.names[i], start
				}
			}
			return name, entry
		},
		Bytes: func(at uintptr, n int) []byte {
			code := append(m.code[at-0x1000:len(m.code):len(m.code)], make([]byte, n)...)
			return code[:n]
		},
	}
}

func TestTheFirstInstructionOfAFunctionIsMeasured(t *testing.T) {
	var m fakeImage
	// lea r12, [rsp-0x90]
	long := m.add("long", 0x4c, 0x8d, 0xa4, 0x24, 0x70, 0xff, 0xff, 0xff, 0xc3)
	// push rbp; mov rbp, rsp
	short := m.add("short", 0x55, 0x48, 0x89, 0xe5, 0xc3)
	// undefined in 64-bit mode
	other := m.add("other", 0x06)
	im := m.image("amd64")
	for entry, want := range map[uintptr]int{long: 8, short: 1} {
		name, _ := im.Func(entry)
		if length, err := im.First(entry, name); length != want || err != nil {
			t.Errorf("%s: %d bytes, %v", name, length, err)
		}
	}
	for _, wrong := range []struct {
		entry uintptr
		name  string
	}{{long, "short"}, {short + 1, "short"}, {other, "other"}} {
		if length, err := im.First(wrong.entry, wrong.name); err == nil {
			t.Errorf("%+v: %d bytes", wrong, length)
		}
	}
}

func TestOnlyRealCallsAreFound(t *testing.T) {
	var m fakeImage
	target := m.add("target", 0xc3)
	// mov rax, imm64 with the bytes of a call in it; call target; nop; jmp target; ret
	caller := m.add("caller", 0x48, 0xb8, 0xe8, 0, 0, 0, 0, 0, 0, 0, 0xe8, 0xf0, 0xff, 0xff, 0xff, 0x90, 0xe9, 0xea, 0xff, 0xff, 0xff, 0xc3)
	m.add("after", 0xe8, 0xe4, 0xff, 0xff, 0xff, 0xc3)
	refs, err := m.image("amd64").Refs(caller)
	if err != nil || len(refs) != 2 ||
		refs[0].Kind != Call || refs[0].At != caller+10 || refs[0].Target != target || refs[0].Name != "target" ||
		refs[1].Kind != Jump || refs[1].At != caller+16 {
		t.Errorf("%+v, %v", refs, err)
	}
}

func TestAddressesOnARM64(t *testing.T) {
	var m fakeImage
	target := m.add("target", 0xc0, 0x03, 0x5f, 0xd6)
	caller := m.add("caller",
		0x01, 0x00, 0x00, 0x90, // adrp x1, this page
		0x1f, 0x20, 0x03, 0xd5, // nop
		0x21, 0x00, 0x00, 0x91, // add x1, x1, #0
		0xfd, 0xff, 0xff, 0x97, // bl target
		0xfc, 0xff, 0xff, 0x17, // b target+... (not a function's beginning)
	)
	refs, err := m.image("arm64").Refs(caller)
	if err != nil || len(refs) != 2 || refs[0].Kind != Address || refs[0].Target != target || refs[1].At != caller+12 {
		// bl goes to caller+12-12 = caller, itself, and is not listed
		if err != nil || len(refs) != 1 || refs[0].Kind != Address || refs[0].Target != target {
			t.Errorf("%+v, %v", refs, err)
		}
	}
}

func TestErrorsNameWhatWasFound(t *testing.T) {
	var m fakeImage
	m.add("other", 0xc3)
	calls := m.add("calls", 0xe8, 0xfa, 0xff, 0xff, 0xff, 0xc3)
	empty := m.add("empty", 0xc3)
	unknown := m.add("unknown", 0x90, 0x06, 0xc3)
	twice := m.add("twice", 0xe8, 0xf0, 0xff, 0xff, 0xff, 0xe8, 0xeb, 0xff, 0xff, 0xff, 0xc3)
	im := m.image("amd64")
	for want, got := range map[string]func() error{
		"calls calls other, but not wanted or wished": func() error { _, err := im.Find(Call, calls, "wanted", "wished"); return err },
		"empty calls nothing, but not wanted":         func() error { _, err := im.Find(Call, empty, "wanted"); return err },
		"empty takes the address of nothing":          func() error { _, err := im.One(Address, empty, "wanted"); return err },
		"unknown+0x1: 06c3":                           func() error { _, err := im.Refs(unknown); return err },
		"refers to other in 2 places":                 func() error { _, err := im.One(Call, twice, "other"); return err },
		"no function begins at":                       func() error { _, err := im.Refs(twice + 1); return err },
		"machine code of s390x cannot be read":        func() error { _, err := m.image("s390x").Refs(calls); return err },
	} {
		if err := got(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, wanted %s", err, want)
		}
	}
}

func TestOtherStoresBeforeACoroutinesEndAreRefused(t *testing.T) {
	code := []byte{
		0x48, 0x89, 0x8a, 0x80, 1, 0, 0, // mov [rdx+0x180], rcx
		0xc6, 0x82, 0xbb, 0, 0, 0, 1, // mov byte [rdx+0xbb], 1
		0x48, 0x8d, 0x05, 0, 0, 0, 0, // lea rax, [rip]
		0xe8, 0xe5, 0xff, 0xff, 0xff, // call mcall
		0xc3,
	}
	fields := func(code []byte) (Fields, error) {
		var m fakeImage
		m.add("runtime.mcall", 0xc3)
		in := m.add("runtime.coroexit", code...)
		// Back to mcall: 26 bytes of code before the next instruction, and that instruction's own
		// one.
		code[22] = byte(0x100 - 27)
		im := m.image("amd64")
		call, err := im.One(Call, in, "runtime.mcall")
		if err != nil {
			t.Fatal(err)
		}
		return im.CoroExit(call)
	}
	if got, err := fields(code); err != nil || got != (Fields{0x180, 0xbb}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, change := range []struct{ at, to int }{{0, 0x49}, {1, 0x8b}, {2, 0x8b}, {4, 9}, {13, 0}, {8, 0x81}} {
		other := append([]byte(nil), code...)
		other[change.at] = byte(change.to)
		if got, err := fields(other); err == nil {
			t.Errorf("byte %d as %#x: %+v", change.at, change.to, got)
		}
	}
}
