//go:build linux && (amd64 || arm64)

package exeunt

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"

	"exeunt.invalid/exeunt/internal/patch"
	"exeunt.invalid/exeunt/internal/site"
)

const defaultMode = Code

// A redirection is a call to be redirected.
type redirection struct {
	in           string // the function that makes the call
	at           uintptr
	target, code uintptr // where the call leads now, and where it is to lead
}

// Names of functions in the runtime, Go 1.22 to 1.27.
var (
	exitHooks = []string{"internal/runtime/exithook.Run", "runtime.runExitHooks"}
	// os.Exit calls it by the first name; in the runtime itself it has the second.
	beforeExit = []string{"os.runtime_beforeExit", "runtime.os_beforeExit"}
)

// install finds and checks every call before it changes the first. If a call cannot be changed
// after all, those before it are changed back.
func installCode() error {
	found, err := locate()
	if err != nil {
		return err
	}
	for _, r := range found {
		if err := patch.Check(r.at, r.target, r.code); err != nil {
			return fmt.Errorf("%s+%#x: %w", r.in, r.at-entryOf(r.at), err)
		}
	}
	if err := apply(found); err != nil {
		return err
	}
	if common.destroyTarget != 0 {
		watchCollections()
	}
	notDirect = makeDirect() // Install does not return this error: everything works, only slower
	return nil
}

// mainEntry is the address of runtime.main, which is found while it initializes packages.
var mainEntry, initializedBy = func() (entry uintptr, outermost string) {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs)])
	for {
		frame, more := frames.Next()
		if frame.Function == "runtime.main" {
			entry = frame.Entry
		}
		if frame.Function != "runtime.goexit" {
			outermost = frame.Function
		}
		if !more {
			return entry, outermost
		}
	}
}()

// notDirect says why reads or ends stay indirect. It is nil if they do not.
var notDirect error

func apply(found []redirection) error {
	for i, r := range found {
		err := patch.Retarget(r.at, r.target, r.code)
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s+%#x: %w", r.in, r.at-entryOf(r.at), err)
		for i--; i >= 0; i-- {
			undone := found[i]
			if back := patch.Retarget(undone.at, undone.code, undone.target); back != nil {
				err = errors.Join(err, fmt.Errorf("%s stays redirected, without effect: %w", undone.in, back))
			}
		}
		return err
	}
	return nil
}

// locate finds the calls by which goroutines end, and stores their targets in common.
func locate() ([]redirection, error) {
	seen, err := probe()
	if err != nil {
		return nil, err
	}
	if mainEntry == 0 {
		return nil, fmt.Errorf("this package was initialized by %s and not by runtime.main: is it in a plugin?", initializedBy)
	}
	corostart, err := findCorostart()
	if err != nil {
		return nil, err
	}
	atReturn, atGoexit, atProcessExit, atCoroutineExit, atCallback, atRecovery := hookAddresses(!useMap)
	var found []redirection
	add := func(in uintptr, call site.Ref, code uintptr, next *uintptr) error {
		name, _ := image.Func(in)
		if *next != 0 && *next != call.Target {
			return fmt.Errorf("%s calls %s at %#x, but other calls lead to %#x", name, call.Name, call.Target, *next)
		}
		*next = call.Target
		found = append(found, redirection{name, call.At, call.Target, code})
		return nil
	}
	one := func(in, code uintptr, next *uintptr, names ...string) error {
		call, err := image.One(site.Call, in, names...)
		if err != nil {
			return err
		}
		return add(in, call, code, next)
	}

	// Ends of a goroutine: return, and runtime.Goexit.
	if err := one(seen.goexit, atReturn, &common.returnTarget, "runtime.goexit1"); err != nil {
		return nil, err
	}
	if err := one(reflect.ValueOf(runtime.Goexit).Pointer(), atGoexit, &common.goexitTarget, "runtime.goexit1"); err != nil {
		return nil, err
	}
	exitAddress = probeReturnAddress
	// What tells a return after a recovered panic from others. Without it both are Returned.
	if recovery := near(reflect.ValueOf(runtime.Goexit).Pointer(), "runtime.recovery"); recovery != 0 && !useMap {
		if call, err := image.One(site.Call, recovery, "runtime.gogo"); err == nil {
			if err := add(recovery, call, atRecovery, &common.recoveryTarget); err != nil {
				return nil, err
			}
		}
	}
	// The end of a goroutine that code of a plugin ends. Without it such ends are not noticed.
	if runtime.NumCgoCall() > 0 && !useMap {
		if in, call, err := findDestroy(common.goexitTarget); err == nil {
			if err := add(in, call, destroyHookAddress(), &common.destroyTarget); err != nil {
				return nil, err
			}
		}
	}
	// Ends of the process: return from main.main, and os.Exit. Builds with the race detector have
	// two calls in runtime.main.
	before, err := image.One(site.Call, reflect.ValueOf(os.Exit).Pointer(), beforeExit...)
	if err != nil {
		return nil, err
	}
	for _, in := range []uintptr{mainEntry, before.Target} {
		calls, err := image.Find(site.Call, in, exitHooks...)
		if err != nil {
			return nil, err
		}
		for _, call := range calls {
			if err := add(in, call, atProcessExit, &common.processTarget); err != nil {
				return nil, err
			}
		}
	}
	// The end of a coroutine (iter.Pull).
	if corostart != 0 {
		in, call, err := coroutineExit(corostart)
		if err != nil {
			return nil, err
		}
		if err := add(in, call, atCoroutineExit, &common.coroutineTarget); err != nil {
			return nil, err
		}
	}
	// The end of a callback from C.
	if runtime.NumCgoCall() > 0 {
		in, err := findCgocallbackg(seen.goexit)
		if err != nil {
			return nil, err
		}
		if err := one(in, atCallback, &common.callbackTarget, "runtime.cgocallbackg1"); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// coroutineExit finds the call that ends a coroutine's goroutine. runtime.corostart has deferred
// coroexit since Go 1.23, by a wrapper function. Optimized builds inline coroexit there.
func coroutineExit(corostart uintptr) (in uintptr, call site.Ref, err error) {
	in = corostart
	refs, err := image.Refs(corostart)
	if err != nil {
		return 0, call, err
	}
	for _, ref := range refs {
		if ref.Kind == site.Address && strings.HasPrefix(ref.Name, "runtime.corostart.deferwrap") {
			in = ref.Target
		}
	}
	call, err = image.One(site.Call, in, "runtime.coroexit", "runtime.mcall")
	if err != nil {
		return 0, call, err
	}
	if call.Name == "runtime.mcall" {
		coroFields, err = image.CoroExit(call)
	}
	return in, call, err
}

// findCgocallbackg finds runtime.cgocallbackg. It need not have a frame on any stack now. But
// runtime.cgocallback takes its address, and is near runtime.goexit: both are assembly of the same
// file.
func findCgocallbackg(goexit uintptr) (uintptr, error) {
	callback := near(goexit, "runtime.cgocallback")
	if callback == 0 {
		return 0, fmt.Errorf("the program uses cgo, but there is no runtime.cgocallback within %d bytes of runtime.goexit", reach)
	}
	ref, err := image.One(site.Address, callback, "runtime.cgocallbackg")
	if err != nil {
		return 0, err
	}
	// The address may be that of an ABI wrapper with the same name.
	if calls, err := image.Refs(ref.Target); err == nil {
		for _, call := range calls {
			if call.Kind != site.Address && call.Name == "runtime.cgocallbackg" {
				return call.Target, nil
			}
		}
	}
	return ref.Target, nil
}
