//go:build linux || amd64 || arm64

package exeunt

import (
	"fmt"
	"math/rand"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Goroutines act in a random order, beside a model that predicts the result. Each line that is
// logged must be the one that the model expects. A failure names its seed. EXEUNT_TEST_RANDOM=SEED
// runs that case alone, EXEUNT_TEST_RANDOM=FROM..TO many. Cases run in a child process where no
// other local is made: the first eight of theirs are in the record itself, the others in
// record.more.
const randomVariable = "EXEUNT_TEST_RANDOM"

// An act is what code does on its goroutine. Numbers name what is stored, and are not reused.
type act struct {
	kind   string
	local  int
	number int
	// of the handler, of Close, of the function given to With or Go, or of the inheritable value's
	// child function
	acts []act
}

func (a act) String() string {
	return fmt.Sprintf("%s(%d, %d, %v)", a.kind, a.local, a.number, a.acts)
}

const randomLocals = 3

// This is made once in a process, so that the number of locals does not grow with the number of
// cases.
type randomStorage struct {
	scalars   [randomLocals]*Local[int]
	boxed     [randomLocals]*Local[string]
	closers   [randomLocals]*Local[*randomCloser]
	inherited *Local[*randomCloser]
}

func newRandomStorage() *randomStorage {
	s := &randomStorage{}
	for i := 0; i < randomLocals; i++ {
		s.scalars[i], s.boxed[i], s.closers[i] = NewLocal[int](), NewLocal[string](), NewLocal[*randomCloser]()
	}
	s.inherited = NewInheritable(func(c *randomCloser) *randomCloser {
		c.world.j.add(fmt.Sprintf("child %d", c.number))
		c.world.do(c.acts)
		return &randomCloser{c.world, c.number, nil}
	})
	return s
}

type randomCloser struct {
	world  *randomWorld
	number int
	acts   []act
}

func (c *randomCloser) Close() error {
	c.world.j.add(fmt.Sprintf("close %d", c.number))
	defer c.world.j.add(fmt.Sprintf("closed %d", c.number))
	c.world.do(c.acts)
	return nil
}

type randomWorld struct {
	*randomStorage
	j   journal
	ids []int64
}

func (w *randomWorld) do(acts []act) {
	for _, a := range acts {
		w.one(a)
	}
}

func (w *randomWorld) one(a act) {
	note := func(format string, arguments ...any) { w.j.add(fmt.Sprintf(format, arguments...)) }
	switch a.kind {
	case "set scalar":
		w.scalars[a.local].Set(a.number)
	case "get scalar":
		v, ok := w.scalars[a.local].Lookup()
		note("scalar %d: %d %t %d", a.local, v, ok, w.scalars[a.local].Get())
	case "del scalar":
		w.scalars[a.local].Del()
	case "set boxed":
		w.boxed[a.local].Set(strconv.Itoa(a.number))
	case "get boxed":
		note("boxed %d: %q", a.local, w.boxed[a.local].Get())
	case "set closer":
		w.closers[a.local].Set(&randomCloser{w, a.number, a.acts})
	case "swap closer":
		if c, ok := w.closers[a.local].Swap(&randomCloser{w, a.number, a.acts}); ok {
			note("closer %d was: %d", a.local, c.number)
		}
	case "set closer again":
		if c, ok := w.closers[a.local].Lookup(); ok {
			w.closers[a.local].Set(c)
		}
	case "del closer":
		w.closers[a.local].Del()
	case "get closer":
		if c := w.closers[a.local].Get(); c != nil {
			note("closer %d: %d", a.local, c.number)
		} else {
			note("closer %d: none", a.local)
		}
	case "set inherited":
		w.inherited.Set(&randomCloser{w, a.number, a.acts})
	case "at exit":
		AtExit(func() {
			note("handler %d", a.number)
			defer note("handled %d", a.number)
			w.do(a.acts)
		})
	case "reset":
		Reset()
	case "unload":
		Unload()
	case "id":
		id, place := ID(), 0
		for place < len(w.ids) && w.ids[place] != id {
			place++
		}
		if place == len(w.ids) {
			w.ids = append(w.ids, id)
		}
		note("id %d", place)
	case "with":
		With(a.number, func() { w.do(a.acts) })
	case "run":
		Capture().Run(func() { w.do(a.acts) })
	case "context":
		note("context %v", GetSafe())
	case "go", "wrap":
		type left struct {
			r *record
			g uintptr
		}
		ends := make(chan left)
		if a.kind == "wrap" {
			run := Wrap(func() { w.do(a.acts) })
			go func() {
				defer func() { ends <- left{lookup(), getg()} }()
				run()
			}()
		} else {
			Go(func() {
				defer func() { ends <- left{lookup(), getg()} }()
				w.do(a.acts)
			})
		}
		// What that goroutine does at its end comes before what this one does next.
		if l := <-ends; l.r != nil {
			// In collected mode another goroutine ends it, and no further one gets the record.
			for owner := l.r.owner.Load(); owner == l.g || owner != 0 && inCollectedMode(); owner = l.r.owner.Load() {
				runtime.Gosched()
			}
		}
	case "goexit":
		defer note("deferred %d", a.number)
		runtime.Goexit()
	case "panic":
		panic(a.number)
	}
}

// randomModel is the expected state of one goroutine.
type randomModel struct {
	scalars   [randomLocals]int // 0: not set
	boxed     [randomLocals]int
	closers   [randomLocals]*act
	inherited *act
	closes    bool
	closing   bool
	handlers  []act
	id        int // 1 + its position
	context   any
	entered   bool
}

type randomExpected struct {
	lines []string
	ids   int
}

func (e *randomExpected) add(format string, arguments ...any) {
	e.lines = append(e.lines, fmt.Sprintf(format, arguments...))
}

// An outcome is how acts end.
type outcome int

const (
	wentOn outcome = iota
	exited
	panicked
)

func (m *randomModel) do(acts []act, e *randomExpected) outcome {
	for _, a := range acts {
		if o := m.one(a, e); o != wentOn {
			return o
		}
	}
	return wentOn
}

func (m *randomModel) one(a act, e *randomExpected) outcome {
	switch a.kind {
	case "set scalar":
		m.scalars[a.local] = a.number
	case "get scalar":
		v := m.scalars[a.local]
		e.add("scalar %d: %d %t %d", a.local, v, v != 0, v)
	case "del scalar":
		m.scalars[a.local] = 0
	case "set boxed":
		m.boxed[a.local] = a.number
	case "get boxed":
		text := ""
		if n := m.boxed[a.local]; n != 0 {
			text = strconv.Itoa(n)
		}
		e.add("boxed %d: %q", a.local, text)
	case "set closer":
		return m.replace(&m.closers[a.local], &a, e)
	case "swap closer":
		if c := m.closers[a.local]; c != nil {
			e.add("closer %d was: %d", a.local, c.number)
		}
		m.closers[a.local], m.closes = &a, true
	case "set closer again":
		if m.closers[a.local] != nil {
			m.closes = true
		}
	case "del closer":
		return m.close(&m.closers[a.local], e)
	case "get closer":
		if c := m.closers[a.local]; c != nil {
			e.add("closer %d: %d", a.local, c.number)
		} else {
			e.add("closer %d: none", a.local)
		}
	case "set inherited":
		return m.replace(&m.inherited, &a, e)
	case "at exit":
		m.handlers = append(m.handlers, a)
	case "reset":
		return m.reset(e)
	case "unload":
		m.handlers = nil
		if o := m.reset(e); o != wentOn {
			return o
		}
		m.id, m.context, m.entered = 0, nil, false
	case "id":
		if m.id == 0 {
			e.ids++
			m.id = e.ids
		}
		e.add("id %d", m.id-1)
	case "with":
		context, entered := m.context, m.entered
		m.context, m.entered = a.number, true
		o := m.do(a.acts, e)
		if m.entered {
			m.context, m.entered = context, entered
		}
		return o
	case "run":
		inherited, o := m.inherit(e)
		if o != wentOn {
			return o
		}
		return m.runCaptured(inherited, m.context, m.entered, a.acts, e)
	case "context":
		e.add("context %v", m.context)
	case "go", "wrap":
		var child randomModel
		inherited, o := m.inherit(e)
		if o != wentOn {
			return o
		}
		if a.kind == "wrap" {
			child.runCaptured(inherited, m.context, m.entered, a.acts, e)
		} else {
			child.inherited, child.closes = inherited, inherited != nil
			child.context, child.entered = m.context, m.entered
			child.do(a.acts, e)
		}
		child.end(e)
	case "goexit":
		e.add("deferred %d", a.number)
		return exited
	case "panic":
		return panicked
	}
	return wentOn
}

// run models one handler or Close, which logs its end. It reports whether Goexit was called.
func (m *randomModel) run(a act, ended string, e *randomExpected) bool {
	o := m.do(a.acts, e)
	e.add("%s %d", ended, a.number)
	switch o {
	case exited:
		m.closes, m.closing = true, false
		return true
	case panicked:
		e.add("a panic")
	}
	return false
}

// inherit models the call of the child function, and returns what that makes.
func (m *randomModel) inherit(e *randomExpected) (*act, outcome) {
	i := m.inherited
	if i == nil {
		return nil, wentOn
	}
	e.add("child %d", i.number)
	return &act{number: i.number}, m.do(i.acts, e)
}

func (m *randomModel) runCaptured(inherited *act, context any, entered bool, acts []act, e *randomExpected) outcome {
	saved := *m
	m.inherited, m.context, m.entered = inherited, context, entered
	m.closes = m.closes || inherited != nil
	o := m.do(acts, e)
	within := m.inherited
	m.inherited, m.context, m.entered = saved.inherited, saved.context, saved.entered
	m.closes = m.closes || saved.closes
	if m.close(&within, e) == exited {
		return exited
	}
	return o
}

// replace models Set. The value before is closed after that.
func (m *randomModel) replace(place **act, a *act, e *randomExpected) outcome {
	before := *place
	*place, m.closes = a, true
	return m.close(&before, e)
}

// close removes a value and closes it.
func (m *randomModel) close(place **act, e *randomExpected) outcome {
	if c := *place; c != nil {
		*place = nil
		e.add("close %d", c.number)
		if m.run(*c, "closed", e) {
			return exited
		}
	}
	return wentOn
}

// closeValues reports whether a Close called Goexit.
func (m *randomModel) closeValues(e *randomExpected) bool {
	if m.closes || m.closing {
		within := m.closing
		m.closes, m.closing = false, true
		places := []**act{&m.inherited}
		for i := randomLocals - 1; i >= 0; i-- {
			places = append(places, &m.closers[i])
		}
		for _, place := range places {
			if m.close(place, e) == exited {
				return true
			}
		}
		m.closing = within
		if m.closes {
			return false
		}
	}
	m.scalars, m.boxed, m.closers, m.inherited = [randomLocals]int{}, [randomLocals]int{}, [randomLocals]*act{}, nil
	return false
}

func (m *randomModel) reset(e *randomExpected) outcome {
	for round := 0; round < maxRounds; round++ {
		if m.closeValues(e) {
			return exited
		}
		if !m.closes {
			break
		}
	}
	return wentOn
}

// end models the drain. A Goexit in it has the effect of a return.
func (m *randomModel) end(e *randomExpected) {
	for len(m.handlers) > 0 || m.closes {
		if last := len(m.handlers) - 1; last >= 0 {
			handler := m.handlers[last]
			m.handlers = m.handlers[:last]
			e.add("handler %d", handler.number)
			m.run(handler, "handled", e)
			continue
		}
		m.closeValues(e)
	}
}

type randomSource struct {
	*rand.Rand
	last int
}

// act makes a random act. nested is its depth in other acts. inside means in a handler or a Close,
// where panics are recovered.
func (s *randomSource) act(nested int, inside bool) act {
	s.last++
	kinds := []string{
		"set scalar", "get scalar", "get scalar", "del scalar", "set boxed", "get boxed", "get boxed", "set closer", "swap closer",
		"set closer again", "del closer", "get closer", "get closer", "reset", "unload", "id", "context",
	}
	more := []string{"set closer", "set inherited", "at exit", "at exit", "with", "go", "run", "wrap"}
	if inside {
		kinds = append(kinds, "goexit", "panic")
	}
	if nested < 3 {
		kinds = append(kinds, more...)
	}
	a := act{kind: kinds[s.Intn(len(kinds))], local: s.Intn(randomLocals), number: s.last}
	switch a.kind {
	case "with", "run":
		a.acts = s.acts(nested, inside)
	case "go", "wrap":
		a.acts = s.acts(nested, false)
	case "set inherited":
		// The acts of the child function and of Close are simple ones, or Go would call itself
		// without end.
		a.acts = s.acts(2, false)
	case "set closer", "swap closer", "at exit":
		a.acts = s.acts(nested, true)
	}
	return a
}

func (s *randomSource) acts(nested int, inside bool) (acts []act) {
	if nested >= 3 {
		return nil
	}
	for n := s.Intn(4); n > 0; n-- {
		acts = append(acts, s.act(nested+1, inside))
	}
	return acts
}

// randomCase runs one case. It returns what went wrong, and what had been done.
func randomCase(storage *randomStorage, seed int64) error {
	s := &randomSource{Rand: rand.New(rand.NewSource(seed))}
	w, e := &randomWorld{randomStorage: storage}, &randomExpected{}
	OnPanic(func(any, []byte) { w.j.add("a panic") })
	defer OnPanic(nil)
	var done strings.Builder
	compare := func() error {
		// A goroutine that has logged its end may still be busy with it.
		want := strings.Join(e.lines, "\n")
		got := ""
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Microsecond) {
			w.j.Lock()
			lines := len(w.j.lines)
			got = strings.Join(w.j.lines, "\n")
			w.j.Unlock()
			if lines >= len(e.lines) {
				break
			}
		}
		if got != want {
			return fmt.Errorf("seed %d\ngot:\n%s\nwant:\n%s\ndone:\n%s", seed, got, want, done.String())
		}
		return nil
	}
	for life := 0; life < 8; life++ {
		var m randomModel
		orders, obeyed := make(chan act), make(chan struct{})
		go func() {
			for a := range orders {
				w.one(a)
				obeyed <- struct{}{}
			}
		}()
		for n := s.Intn(12); n > 0; n-- {
			a := s.act(0, false)
			fmt.Fprintln(&done, a)
			o := m.one(a, e)
			orders <- a
			if o == exited { // in a Close that Set, Del, Reset or Unload runs
				break
			}
			<-obeyed
			if err := compare(); err != nil {
				return err
			}
		}
		fmt.Fprintln(&done, "end")
		close(orders)
		m.end(e)
		if err := compare(); err != nil {
			return err
		}
	}
	return nil
}

// randomSeeds reads "SEED" or "FROM..TO".
func randomSeeds(asked string) (from, to int64, err error) {
	first, last, many := strings.Cut(asked, "..")
	if from, err = strconv.ParseInt(first, 10, 64); err != nil || !many {
		return from, from + 1, err
	}
	to, err = strconv.ParseInt(last, 10, 64)
	return from, to, err
}

func init() {
	scenarios["random acts"] = func() {
		collectUnlessInCodeMode()
		from, to, err := randomSeeds(os.Getenv(randomVariable))
		storage := newRandomStorage()
		for seed := from; seed < to && err == nil; seed++ {
			err = randomCase(storage, seed)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

func TestWhateverGoroutinesDoIsWhatTheModelSays(t *testing.T) {
	asked := os.Getenv(randomVariable)
	if asked == "" {
		asked = "0..500"
		if testing.Short() {
			asked = "0..100"
		}
	}
	from, to, err := randomSeeds(asked)
	if err != nil {
		t.Fatal(err)
	}
	// A child process has a time limit, so many cases need several processes.
	const atOnce = 1000
	for ; from < to && !t.Failed(); from += atOnce {
		code, output := child(t, "random acts", fmt.Sprintf("%s=%d..%d", randomVariable, from, min(from+atOnce, to)))
		want(t, code, output, 0, "the scenario returned\n")
	}
}
