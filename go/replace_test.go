//go:build linux || amd64 || arm64

package exeunt

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

func TestAReplacedValueIsClosedAfterTheNewOneIsInPlace(t *testing.T) {
	var j journal
	l := NewLocal[*resource]()
	ended(func() {
		closes := func() error {
			if now := l.Get(); now != nil {
				j.add("sees " + now.name)
			} else {
				j.add("sees none")
			}
			return nil
		}
		l.Set(&resource{name: "a", j: &j, close: closes})
		l.Set(&resource{name: "b", j: &j, close: closes})
		l.Set(l.Get()) // the same one
		l.Set(nil)
		l.Set(&resource{name: "c", j: &j, close: closes})
		l.Del()
		l.Del()
		j.want(t, "close a", "sees b", "close b", "sees none", "close c", "sees none")
	})
	j.want(t, "close a", "sees b", "close b", "sees none", "close c", "sees none")
}

type (
	closingFunc   func()
	closingMap    map[string]*int
	closingStruct struct { // cannot be compared
		names  []string
		closed *int
	}
	closingPair struct { // can
		text   string
		closed *int
	}
	closingFloat float64
)

var closedFloats int

func (f closingFunc) Close() error   { f(); return nil }
func (m closingMap) Close() error    { *m["closed"]++; return nil }
func (s closingStruct) Close() error { *s.closed++; return nil }
func (p closingPair) Close() error   { *p.closed++; return nil }
func (f closingFloat) Close() error  { closedFloats++; return nil }

// setAgain wants that the same value stays open when it is set again, and that another one does not.
func setAgain[T any](t *testing.T, closed func() int, value, other T) {
	t.Helper()
	for _, l := range []*Local[T]{NewLocal[T](), NewLocalFunc(func() T { return value })} {
		ended(func() {
			before := closed()
			l.Set(value)
			l.Set(l.Get())
			l.Set(value)
			if n := closed() - before; n != 0 {
				t.Errorf("%T: closed %d times although it is set again", value, n)
			}
			l.Set(other)
			if n := closed() - before; n != 1 {
				t.Errorf("%T: closed %d times when it was replaced", value, n)
			}
			l.Swap(value)
			l.Swap(other)
			if n := closed() - before; n != 1 {
				t.Errorf("%T: Swap closes", value)
			}
			l.Del()
			if n := closed() - before; n != 2 {
				t.Errorf("%T: closed %d times after Del", value, n)
			}
		})
	}
}

func TestAValueThatIsSetAgainStaysOpen(t *testing.T) {
	n := 0
	closed := func() int { return n }
	count := func() { n++ }
	text := strings.Repeat("text", 2)
	setAgain(t, closed, closingFunc(count), closingFunc(func() { n++ }))
	setAgain(t, closed, closingMap{"closed": &n}, closingMap{"closed": &n})
	setAgain(t, closed, closingStruct{[]string{"a"}, &n}, closingStruct{[]string{"a"}, &n})
	setAgain(t, closed, closingPair{text, &n}, closingPair{"other", &n})
	setAgain(t, func() int { return closedFloats }, closingFloat(1), 2)
	setAgain[io.Closer](t, closed, &closingPair{text, &n}, &closingPair{text, &n})
	setAgain[io.Closer](t, closed, closingStruct{[]string{"a"}, &n}, closingPair{text, &n})
	setAgain[any](t, closed, closingFunc(count), closingMap{"closed": &n})
	// Equal values at different addresses are the same.
	l := NewLocal[closingPair]()
	ended(func() {
		l.Set(closingPair{text, &n})
		before := n
		l.Set(closingPair{strings.Repeat("text", 2), &n})
		if n != before {
			t.Error("closed although an equal value replaces it")
		}
	})
}

func TestAnInheritedValueThatIsReplacedStaysOpen(t *testing.T) {
	var j journal
	l := NewInheritable[*resource](nil)
	ended(func() {
		l.Set(&resource{name: "the parent's", j: &j})
		for name, replace := range map[string]func(){
			"Set":       func() { l.Set(nil) },
			"Set again": func() { l.Set(l.Get()); Reset() },
			"Swap":      func() { l.Swap(l.Get()); Reset() },
			"Del":       l.Del,
		} {
			done := make(chan struct{})
			Go(func() {
				defer close(done)
				replace()
			})
			<-done
			if j.length() != 0 {
				t.Error(name, "has closed the parent's value")
				j.lines = nil
			}
		}
		Reset()
		j.want(t, "close the parent's")
	})
}

func TestErrorsPanicsAndGoexitOfAReplacedValue(t *testing.T) {
	l := NewLocal[io.Closer]()
	var j journal
	reports := reported(func() {
		ended(func() {
			l.Set(&resource{name: "fails", j: &j, close: func() error { return errors.New("failed") }})
			l.Set(&resource{name: "panics", j: &j, close: func() error { panic("panicked") }})
			l.Del()
			unloads := &resource{name: "unloads", j: &j}
			unloads.close = func() error { Unload(); return nil }
			done := make(chan struct{})
			go func() {
				defer close(done)
				l.Set(unloads)
				l.Set(&resource{name: "unloaded", j: &j})
				if l.Get() != nil {
					t.Error("a value is left after Unload in a Close")
				}
			}()
			<-done
			done = make(chan struct{})
			go func() {
				defer close(done)
				l.Set(&resource{name: "exits", j: &j, close: func() error { runtime.Goexit(); return nil }})
				l.Set(&resource{name: "never used", j: &j})
				t.Error("Goexit in a Close did not end the goroutine")
			}()
			<-done
		})
	})
	waitFor(t, &j, "close fails", "close panics", "close unloads", "close unloaded", "close exits", "close never used")
	if len(reports) != 2 || !strings.Contains(reports[0], "failed") || !strings.HasPrefix(reports[1], "panicked\n") {
		t.Errorf("%q", reports)
	}
}

func TestSwapGivesTheValueToItsCaller(t *testing.T) {
	var j journal
	l := NewLocal[*resource]()
	ended(func() {
		if before, ok := l.Swap(&resource{name: "a", j: &j}); before != nil || ok {
			t.Error("a value before the first one")
		}
		before, ok := l.Swap(&resource{name: "b", j: &j})
		if !ok || before.name != "a" {
			t.Error(before, ok)
		}
		l.Swap(before)
		if before, ok = l.Swap(nil); !ok || before.name != "a" {
			t.Error(before, ok)
		}
		if before, ok = l.Swap(nil); before != nil || !ok {
			t.Error("a nil that was set counts as set")
		}
		l.Set(&resource{name: "c", j: &j})
	})
	waitFor(t, &j, "close c")
}

func TestAnInitialValueBelongsToItsGoroutine(t *testing.T) {
	var j journal
	counts := make(chan int, 100)
	n := 0
	l := NewLocalFunc(func() *resource { n++; return &resource{name: fmt.Sprint(n), j: &j} })
	var closed []string
	for i := 1; i <= 3; i++ {
		ended(func() {
			AtExit(func() { counts <- len(l.Get().name) })
			if v := l.Get(); i != 2 && v != l.Get() {
				t.Error("two initial values")
			}
			if i == 3 {
				runtime.Goexit()
			}
		})
		ended(func() {})
		// The goroutine's values are closed after what ended waits for. The second one's value was
		// made in a handler.
		closed = append(closed, fmt.Sprint("close ", i))
		waitFor(t, &j, closed...)
	}
	ended(func() {
		l.Get()
		Reset()
		l.Get()
	})
	waitFor(t, &j, "close 1", "close 2", "close 3", "close 4", "close 5")
}

func TestAnInitialFunctionMayFailAndUseStorage(t *testing.T) {
	var j journal
	turn := 0
	var l *Local[*resource]
	other := NewLocal[int]()
	l = NewLocalFunc(func() *resource {
		turn++
		switch turn {
		case 1:
			panic("no value yet")
		case 2:
			runtime.Goexit()
		case 3:
			other.Set(3)
			l.Set(&resource{name: "set meanwhile", j: &j})
		case 4:
			Unload()
		}
		return &resource{name: fmt.Sprint("turn ", turn), j: &j}
	})
	ended(func() {
		if panics(func() { l.Get() }) != "no value yet" {
			t.Error("another panic")
		}
		if _, ok := l.Lookup(); ok {
			t.Error("a value after a panic")
		}
	})
	ended(func() {
		defer func() {
			if _, ok := l.Lookup(); ok {
				t.Error("a value after Goexit")
			}
		}()
		l.Get()
		t.Error("Goexit did not end the goroutine")
	})
	ended(func() {
		if v := l.Get(); v.name != "turn 3" || l.Get() != v || other.Get() != 3 {
			t.Error(v.name)
		}
	})
	// The goroutine's values are closed after what ended waits for.
	waitFor(t, &j, "close set meanwhile", "close turn 3")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if v := l.Get(); v.name != "turn 4" || l.Get() != v {
			t.Error(v.name)
		}
		Unload()
	}()
	<-done
	waitFor(t, &j, "close set meanwhile", "close turn 3", "close turn 4")
	if panics(func() { NewLocalFunc[int](nil) }) == nil {
		t.Error("NewLocalFunc(nil) went through")
	}
}

func TestAnInitialValueOfALaterLocalAndInTheMap(t *testing.T) {
	var all []*Local[int]
	for i := 0; i < inlineSlots+2; i++ {
		all = append(all, NewLocalFunc(func() int { return i }))
	}
	for turn := 0; turn < 3; turn++ {
		ended(func() {
			for i, l := range all {
				if v := l.Get(); v != i {
					t.Errorf("local %d is %d", i, v)
				}
				l.Set(i + 1)
				if v := l.Get(); v != i+1 {
					t.Errorf("local %d is %d", i, v)
				}
			}
		})
	}
}

func TestReadingAnInitialValueAgainAllocatesNothing(t *testing.T) {
	l := NewLocalFunc(func() int { return 5 })
	ended(func() {
		l.Get()
		if n := testing.AllocsPerRun(100, func() {
			l.Set(l.Get() + 1)
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
