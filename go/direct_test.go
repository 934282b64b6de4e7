//go:build linux && (amd64 || arm64)

package exeunt

import (
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"exeunt.invalid/exeunt/internal/site"
)

func init() {
	// Goroutines that read all the time: before the first instruction becomes a jump, while it
	// does, and afterwards.
	scenarios["reads while they become direct"] = func() {
		local := NewLocal[int]()
		pair := NewLocal[[2]int]()
		var installed atomic.Bool
		var readers sync.WaitGroup
		for i := 0; i < 2; i++ {
			readers.Add(1)
			go func() {
				defer readers.Done()
				for reads, after := 1, 0; after < 1000; reads++ {
					if reads%100 == 0 {
						runtime.Gosched() // gives the goroutine that installs its turn
					}
					if local.Get() != 0 || pair.Get() != [2]int{} || lookup() != nil {
						fmt.Println("a value where none was set")
						return
					}
					if installed.Load() {
						after++
					}
				}
				local.Set(i)
				pair.Set([2]int{i, i})
				if local.Get() != i || pair.Get() != [2]int{i, i} || lookup() == nil {
					fmt.Println("another value than was set")
				}
			}()
		}
		for i := 0; i < 100; i++ {
			runtime.Gosched()
		}
		if err := Install(); err != nil {
			fmt.Println(err)
		}
		installed.Store(true)
		readers.Wait()
		fmt.Println("read")
	}
	// Simulates a Go whose functions begin otherwise: value is taken for another function.
	scenarios["reads that stay indirect"] = func() {
		named := image.Func
		image.Func = func(pc uintptr) (string, uintptr) {
			name, entry := named(pc)
			if entry == reflect.ValueOf(value).Pointer() {
				name = "another"
			}
			return name, entry
		}
		local := NewLocal[string]()
		local.Set("set")
		ended(func() {
			fmt.Printf("%q ", local.Get())
			local.Set("there")
			fmt.Printf("%q ", local.Get())
		})
		fmt.Printf("%q\n%v\n", local.Get(), notDirect)
	}
}

// In every kind of build, functions begin with an instruction of five bytes or more.
func TestReadsAndEndsAreDirect(t *testing.T) {
	needsCodeMode(t)
	if notDirect != nil {
		t.Fatal(notDirect)
	}
	for function, code := range map[uintptr]uintptr{
		reflect.ValueOf(value).Pointer():   valueCode,
		reflect.ValueOf(current).Pointer(): currentCode,
	} {
		if runtime.GOARCH == "arm64" {
			if function != code {
				t.Errorf("%#x is not %#x", function, code)
			}
		} else if first := jumpsOf(t, function)[0]; first.At != function || first.Target != code {
			t.Errorf("%+v", first)
		}
	}
}

// Install goes on without it, so here is where a version that calls it elsewhere is noticed.
func TestTheRuntimeCallsGdestroyWhereItIsExpected(t *testing.T) {
	needsCodeMode(t)
	if common.destroyTarget != 0 {
		return // the call has been found, and redirected
	}
	if _, _, err := findDestroy(common.goexitTarget); err != nil {
		t.Error(err)
	}
}

func TestAGoroutineThatUsesNothingGoesOnDirectly(t *testing.T) {
	needsCodeMode(t)
	if useMap {
		return // the map is then searched for every goroutine
	}
	atReturn, _, _, _, _, _ := hookAddresses(true)
	for _, jump := range jumpsOf(t, atReturn) {
		if jump.Target == common.returnTarget {
			return
		}
	}
	t.Errorf("%+v", jumpsOf(t, atReturn))
}

func jumpsOf(t *testing.T, function uintptr) (jumps []site.Ref) {
	t.Helper()
	refs, err := image.Refs(function)
	for _, ref := range refs {
		if ref.Kind == site.Jump {
			jumps = append(jumps, ref)
		}
	}
	if err != nil || len(jumps) == 0 {
		t.Fatal(err, refs)
	}
	return jumps
}

func TestReadsBecomeDirectWhileOthersRead(t *testing.T) {
	needsCodeMode(t)
	for i := 0; i < 10; i++ {
		code, output := child(t, "reads while they become direct")
		want(t, code, output, 0, "read\nthe scenario returned\n")
	}
}

func TestReadsThatStayIndirectWork(t *testing.T) {
	needsCodeMode(t)
	if runtime.GOARCH == "arm64" {
		return // none can become direct
	}
	code, output := child(t, "reads that stay indirect")
	lines := strings.Split(output, "\n")
	want(t, code, lines[0]+"\n", 0, `"" "there" "set"`+"\n")
	if !strings.HasPrefix(lines[1], "value: another begins at 0x") || !strings.HasSuffix(lines[1], ", where "+packagePath+".value is expected") {
		t.Error(lines[1])
	}
}
