//go:build !amd64 && !arm64 && !riscv64

package exeunt

import (
	"runtime"
	"strings"
	"testing"
)

func TestWhereThereIsNoPatchEngineEveryCallThatNeedsItSaysSo(t *testing.T) {
	err := Install()
	if err == nil {
		t.Fatal("installed")
	}
	for _, part := range []string{"cannot be redirected", "nothing was changed", runtime.GOOS + "/" + runtime.GOARCH, "no patch engine"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %q", part, err)
		}
	}
	local := NewLocal[int]()
	initial := NewLocalFunc(func() int { t.Error("an initial value was made"); return 1 })
	inheritable := NewInheritable[string](nil)
	for name, call := range map[string]func(){
		"AtExit":    func() { AtExit(func() { t.Error("a handler ran") }) },
		"ID":        func() { ID() },
		"Set":       func() { local.Set(1) },
		"Swap":      func() { local.Swap(1) },
		"initial":   func() { initial.Get() },
		"GetOrInit": func() { local.GetOrInit(func() int { t.Error("a value was made"); return 1 }) },
		"With":      func() { With(1, func() { t.Error("With ran its function") }) },
		"inherited": func() { inheritable.Set("") },
	} {
		func() {
			defer func() {
				if value := recover(); value != any(err) {
					t.Errorf("%s: panicked with %v", name, value)
				}
			}()
			call()
		}()
	}
	// These find nothing, and do nothing.
	if _, ok := local.Lookup(); ok || local.Get() != 0 || GetSafe() != nil {
		t.Error("a value is found")
	}
	if Ending() != Running {
		t.Error("it is ending")
	}
	Goroutines()(func(g Goroutine) bool { t.Error("listed:", g); return true })
	local.Del()
	Reset()
	Unload()
	done := make(chan struct{})
	Go(func() { close(done) })
	<-done
	ran := 0
	Wrap(func() { ran++ })()
	Capture().Run(func() { ran++ })
	if ran != 2 {
		t.Error("Run and Wrap have to call their functions")
	}
}
