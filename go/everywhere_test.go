package exeunt

import (
	"runtime"
	"testing"
	"time"
)

// What works on every system with a mode, in either one.
func TestEveryEndIsNoticedOnEverySystem(t *testing.T) {
	if err := Install(); err != nil {
		t.Fatal(err)
	}
	if InForce() == NoMode {
		t.Error("in force:", InForce())
	}
	type seen struct {
		value string
		end   End
	}
	local := NewLocal[string]()
	for name, c := range map[string]struct {
		body func()
		end  End
	}{
		"returns": {func() {}, Returned},
		"Goexit":  {runtime.Goexit, Exited},
	} {
		handler := make(chan seen, 1)
		go func() {
			if _, ok := local.Lookup(); ok {
				t.Error("a new goroutine has a value")
			}
			local.Set(name)
			AtExit(func() { handler <- seen{local.Get(), Ending()} })
			c.body()
		}()
		deadline := time.Now().Add(time.Minute)
		for done := false; !done; {
			select {
			case got := <-handler:
				if want := (seen{name, asNoticed(c.end)}); got != want {
					t.Errorf("%v, and not %v", got, want)
				}
				done = true
			default:
				if time.Now().After(deadline) {
					t.Fatal(name, "is not noticed")
				}
				runtime.GC() // slot mode notices Goexit by it, collected mode every end
				time.Sleep(time.Millisecond)
			}
		}
	}
}

// asNoticed is what Ending returns after this end in the mode in force.
func asNoticed(end End) End {
	if inCollectedMode() {
		return Ended
	}
	return end
}
