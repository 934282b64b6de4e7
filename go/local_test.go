//go:build linux || amd64 || arm64

package exeunt

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"
)

func equality[T any]() func(a, b T) bool {
	return func(a, b T) bool {
		if v := reflect.ValueOf(a); v.IsValid() && v.Kind() == reflect.Func {
			return v.Pointer() == reflect.ValueOf(b).Pointer()
		}
		return reflect.DeepEqual(a, b)
	}
}

func initialRoundTrip[T any](t *testing.T, first, second T) {
	t.Helper()
	calls := 0
	l := NewLocalFunc(func() T { calls++; return first })
	equal := equality[T]()
	for goroutine := 1; goroutine <= 2; goroutine++ {
		calls = 0
		ended(func() {
			var zero T
			if v, ok := l.Lookup(); ok || !equal(v, zero) || calls != 0 {
				t.Errorf("%T: Lookup finds %v before Get", zero, v)
			}
			for i := 0; i < 3; i++ {
				if v := l.Get(); !equal(v, first) || calls != 1 {
					t.Errorf("%T: Get returns %v after %d calls", zero, v, calls)
				}
				runtime.GC()
			}
			for _, value := range []T{second, zero, first} {
				l.Set(value)
				if v, ok := l.Lookup(); !ok || !equal(v, value) || !equal(l.Get(), value) || calls != 1 {
					t.Errorf("%T: set %v, got %v", zero, value, v)
				}
			}
			l.Del()
			if v := l.Get(); !equal(v, first) || calls != 2 {
				t.Errorf("%T: Get returns %v after Del and %d calls", zero, v, calls)
			}
			Reset()
			if v := l.GetOrInit(func() T { return second }); !equal(v, second) || !equal(l.Get(), second) || calls != 2 {
				t.Errorf("%T: GetOrInit returns %v", zero, v)
			}
			Reset()
			if v, ok := l.Swap(second); ok || !equal(v, zero) || !equal(l.Get(), second) || calls != 2 {
				t.Errorf("%T: Swap finds %v", zero, v)
			}
		})
	}
}

func roundTrip[T any](t *testing.T, first, second T) {
	t.Helper()
	initialRoundTrip(t, first, second)
	l := NewLocal[T]()
	equal := equality[T]()
	ended(func() {
		var zero T
		if v, ok := l.Lookup(); ok || !equal(l.Get(), zero) || !equal(v, zero) {
			t.Errorf("%T: %v before Set", zero, l.Get())
		}
		for _, value := range []T{first, second, zero, first} {
			l.Set(value)
			runtime.GC()
			if v, ok := l.Lookup(); !ok || !equal(l.Get(), value) || !equal(v, value) {
				t.Errorf("%T: set %v, got %v", zero, value, l.Get())
			}
		}
		l.Del()
		if _, ok := l.Lookup(); ok || !equal(l.Get(), zero) {
			t.Errorf("%T: %v after Del", zero, l.Get())
		}
		if v, ok := l.Swap(first); ok || !equal(v, zero) || !equal(l.Get(), first) {
			t.Errorf("%T: Swap finds %v, %t after Del", zero, v, ok)
		}
		if v, ok := l.Swap(second); !ok || !equal(v, first) || !equal(l.Get(), second) {
			t.Errorf("%T: Swap finds %v, %t", zero, v, ok)
		}
		l.Del()
		if v := l.GetOrInit(func() T { return second }); !equal(v, second) || !equal(l.Get(), second) {
			t.Errorf("%T: GetOrInit gives %v", zero, v)
		}
		if v := l.GetOrInit(func() T { t.Error("init again"); return first }); !equal(v, second) {
			t.Errorf("%T: GetOrInit gives %v", zero, v)
		}
	})
}

func TestEveryKindOfValueIsKept(t *testing.T) {
	type pair struct {
		a uint16
		b int32
	}
	type large struct {
		name string
		data [100]int
	}
	a, b := 1, 2
	roundTrip(t, 1, -1)
	roundTrip(t, true, true)
	roundTrip(t, 1.5, 2.5)
	roundTrip(t, complex64(1+2i), 3)
	roundTrip(t, int8(-3), 4)
	roundTrip(t, &a, &b)
	roundTrip(t, unsafe.Pointer(&a), unsafe.Pointer(&b))
	roundTrip(t, map[string]int{"a": 1}, map[string]int{})
	roundTrip(t, make(chan int), make(chan int))
	roundTrip(t, func() { fmt.Println(1) }, func() { fmt.Println(2) })
	roundTrip(t, "text", "")
	roundTrip(t, []int{1, 2}, []int{})
	roundTrip(t, any(1), any("two"))
	roundTrip[error](t, io.EOF, errors.New("another"))
	roundTrip(t, pair{1, 2}, pair{3, 4})
	roundTrip(t, [2]int32{1, 2}, [2]int32{3, 4})
	roundTrip(t, [1]*int{&a}, [1]*int{&b})
	roundTrip(t, struct{ p *int }{&a}, struct{ p *int }{&b})
	roundTrip(t, struct{}{}, struct{}{})
	roundTrip(t, large{name: "large", data: [100]int{99: 1}}, large{})
}

func TestAnyNumberOfLocals(t *testing.T) {
	var locals []*Local[int]
	for i := 0; i < 300; i++ {
		locals = append(locals, NewLocal[int]())
	}
	for turn := 0; turn < 3; turn++ {
		ended(func() {
			for i := len(locals) - 1; i >= 0; i -= 1 + turn {
				if v := locals[i].Get(); v != 0 {
					t.Fatalf("local %d is %d", i, v)
				}
				locals[i].Set(i + turn)
			}
			for i := len(locals) - 1; i >= 0; i -= 1 + turn {
				if v, ok := locals[i].Lookup(); v != i+turn || !ok || locals[i].Get() != v {
					t.Fatalf("local %d is %d", i, v)
				}
			}
		})
	}
}

// A resource notes in a journal that it is closed.
type resource struct {
	name  string
	j     *journal
	close func() error
}

func (r *resource) Close() error {
	r.j.add("close " + r.name)
	if r.close != nil {
		return r.close()
	}
	return nil
}

func TestValuesAreClosedAfterTheHandlersTheLastLocalFirst(t *testing.T) {
	var j journal
	first, second := NewLocal[*resource](), NewLocal[any]()
	third, last := NewLocal[io.Closer](), NewLocal[*resource]()
	ended(func() {
		last.Set(&resource{name: "last", j: &j})
		first.Set(&resource{name: "first", j: &j})
		second.Set("not a closer")
		third.Set(&resource{name: "third", j: &j})
		AtExit(func() { j.add("handler with " + first.Get().name) })
	})
	// The handler of ended runs before the values are closed, so check a second time.
	ended(func() {})
	waitFor(t, &j, "handler with first", "close last", "close third", "close first")
}

// waitFor waits until there are this many lines.
func waitFor(t *testing.T, j *journal, lines ...string) {
	t.Helper()
	for i := 0; i < 1e7; i++ {
		j.Lock()
		n := len(j.lines)
		j.Unlock()
		if n >= len(lines) {
			break
		}
		runtime.Gosched()
	}
	j.want(t, lines...)
}

func TestResetAndUnloadClose(t *testing.T) {
	var j journal
	a, b := NewLocal[*resource](), NewLocal[fmt.Stringer]()
	ended(func() {
		a.Set(&resource{name: "a", j: &j})
		Reset()
		a.Set(&resource{name: "a again", j: &j})
		a.Set(&resource{name: "a replaced", j: &j})
		b.Set(nil)
		done := make(chan struct{})
		go func() { // not with ended: Unload would drop its handler
			a.Set(&resource{name: "of another goroutine", j: &j})
			Unload()
			close(done)
		}()
		<-done
		Reset()
		a.Set(&resource{name: "deleted", j: &j})
		a.Del()
		a.Set(nil)
	})
	waitFor(t, &j, "close a", "close a again", "close of another goroutine", "close a replaced", "close deleted")
}

func TestCloseMayUseStorage(t *testing.T) {
	var j journal
	low, high := NewLocal[*resource](), NewLocal[*resource]()
	number := NewLocal[int]()
	reset := func() {
		low.Set(&resource{name: "low", j: &j, close: func() error {
			if low.Get() != nil {
				j.add("a value that is being closed is still set")
			}
			number.Set(7)
			return nil
		}})
		high.Set(&resource{name: "high", j: &j, close: func() error {
			j.add("sees " + low.Get().name)
			high.Set(&resource{name: "set by a Close", j: &j})
			return nil
		}})
		Reset()
		if number.Get() != 0 {
			j.add("a number is left")
		}
	}
	ended(reset)
	j.want(t, "close high", "sees low", "close low", "close set by a Close")
}

func TestCloseMayRegisterHandlers(t *testing.T) {
	var j journal
	done := make(chan struct{})
	l := NewLocal[*resource]()
	go l.Set(&resource{name: "one", j: &j, close: func() error {
		AtExit(func() { j.add("handler"); close(done) })
		return nil
	}})
	<-done
	j.want(t, "close one", "handler")
}

func TestACloseThatResetsOrEndsTheGoroutineOtherwiseClosesTheOthersToo(t *testing.T) {
	for name, act := range map[string]func(){"Reset": Reset, "Unload": Unload, "Goexit": runtime.Goexit} {
		var j journal
		first, last := NewLocal[*resource](), NewLocal[*resource]()
		go AtExit(func() {
			defer j.add("the handler's deferred function")
			first.Set(&resource{name: "first", j: &j})
			last.Set(&resource{name: "last", j: &j, close: func() error { act(); return nil }})
			Reset()
			if v, ok := first.Lookup(); ok {
				t.Error(name, v)
			}
		})
		// Unload drops a handler that could signal the end.
		for deadline := time.Now().Add(10 * time.Second); j.length() < 3 && time.Now().Before(deadline); {
			time.Sleep(100 * time.Microsecond)
		}
		if name == "Goexit" {
			j.want(t, "close last", "the handler's deferred function", "close first")
		} else {
			j.want(t, "close last", "close first", "the handler's deferred function")
		}
	}
}

func TestALocalThatWasNotMadeSaysSo(t *testing.T) {
	var number Local[int]
	var text Local[[300]byte]
	var pointer Local[*int]
	calls := map[string]func(){
		"Get":         func() { number.Get() },
		"Get boxed":   func() { text.Get() },
		"Get pointer": func() { pointer.Get() },
		"Set":         func() { number.Set(1) },
		"Set boxed":   func() { text.Set([300]byte{1}) },
		"Lookup":      func() { pointer.Lookup() },
		"Del":         func() { number.Del() },
		"Swap":        func() { pointer.Swap(nil) },
		"GetOrInit":   func() { number.GetOrInit(func() int { t.Error("nowhere to put it"); return 1 }) },
	}
	for name, call := range calls {
		for _, armed := range []bool{false, true} {
			var value any
			done := make(chan struct{})
			go func() {
				defer close(done)
				if armed {
					ID()
					// As if another local had stored a value there.
					lookup().slots[0].pointer = unsafe.Pointer(new([300]byte))
				}
				value = panics(call)
			}()
			<-done
			if text, ok := value.(string); !ok || !strings.Contains(text, "not made by NewLocal") {
				t.Errorf("%s, armed: %t: %v", name, armed, value)
			}
		}
	}
}

func TestErrorsAndPanicsOfCloseAreReported(t *testing.T) {
	var j journal
	a, b, c := NewLocal[*resource](), NewLocal[*resource](), NewLocal[*resource]()
	reports := reported(func() {
		ended(func() {
			a.Set(&resource{name: "a", j: &j})
			b.Set(&resource{name: "b", j: &j, close: func() error { return io.ErrClosedPipe }})
			c.Set(&resource{name: "c", j: &j, close: func() error { panic("in Close") }})
			Reset()
		})
	})
	j.want(t, "close c", "close b", "close a")
	if len(reports) != 2 || !strings.HasPrefix(reports[0], "in Close\n") || !strings.Contains(reports[1], io.ErrClosedPipe.Error()) {
		t.Errorf("%q", reports)
	}
}

func init() {
	scenarios["set for ever"] = func() {
		// One in the record itself and one in record.more.
		var all []*Local[*resource]
		for i := 0; i < inlineSlots+1; i++ {
			all = append(all, NewLocal[*resource]())
		}
		done := make(chan string, 1)
		OnPanic(func(value any, _ []byte) { done <- fmt.Sprint(value) })
		for _, l := range []*Local[*resource]{all[0], all[inlineSlots]} {
			var j journal
			var again func() error
			again = func() error {
				l.Set(&resource{name: "x", j: &j, close: again})
				return nil
			}
			go func() { _ = again() }()
			fmt.Println(<-done)
			ended(func() {
				_ = again()
				Reset()
				_, ok := l.Lookup()
				fmt.Println(<-done, ok)
			})
			// The record will soon be another goroutine's.
			seen := 0
			for i := 0; i < 1000; i++ {
				ended(func() {
					if _, ok := l.Lookup(); ok {
						seen++
					}
				})
			}
			fmt.Println("seen by", seen)
		}
	}
}

func TestAValueThatIsSetForEverByItsCloseEndsWithAReportAndIsNobodyElses(t *testing.T) {
	needsPromptEnds(t)
	report := "exeunt: values and handlers were still being added after 100 rounds of closing and running them; the remaining ones are dropped"
	each := report + "\n" + report + " false\nseen by 0\n"
	code, output := child(t, "set for ever")
	want(t, code, output, 0, each+each+"the scenario returned\n")
}

func TestReadingAndSettingAllocateNothing(t *testing.T) {
	number, pointer, text := NewLocal[int](), NewLocal[*int](), NewLocal[string]()
	value := 1
	ended(func() {
		text.Set("the first needs a place")
		if n := testing.AllocsPerRun(100, func() {
			number.Set(1 << 30)
			pointer.Set(&value)
			text.Set("the next ones don't")
			if number.Get() != 1<<30 || *pointer.Get() != 1 || text.Get() == "" {
				t.Error("other values")
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
