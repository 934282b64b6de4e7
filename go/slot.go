//go:build amd64 || arm64 || riscv64

package exeunt

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
)

// Slot mode: no code is changed
//
// A goroutine is armed by a word at its foot: the place that holds the address to which its entry
// function returns. That address is then one in exitTrampoline, an assembly function with the flag
// TOPFRAME, which tells the runtime (since Go 1.17) that a stack ends there. So stack growth, garbage
// collection and tracebacks find the frame of exitTrampoline where they else find that of
// runtime.goexit:
//
//	 amd64                                  arm64
//	 g.stack.hi ─┐                          g.stack.hi ─┐
//	   index of the record       hi-8         index of the record          hi-8
//	   not used                  hi-16        not used                     hi-16
//	   s, a sentinel             hi-24        distance of the foot         hi-24
//	   not used                  hi-32        not used                     hi-32
//	   the foot                  hi-40        s, a sentinel                hi-40
//	                                          whether the stack is armed   hi-48
//
// newproc1 writes runtime.goexit's address at hi-40 (amd64), or 0 at hi-48 (arm64), when it makes a
// goroutine. Therefore the word there, which is armedFoot on an armed stack, tells the goroutine
// from all earlier ones that had the same descriptor and the same stack, however they have ended.
//
// s is the argument of exitTrampoline. The garbage collector and copystack know that by the function's
// declaration, and treat it like the argument of any other function. Nothing else leads to the
// sentinel of an armed goroutine. So when the goroutine has ended and has not returned to
// exitTrampoline (by runtime.Goexit, or as a coroutine), the collector calls the sentinel's
// finalizer, once.

// exitTrampoline is where the entry functions of armed goroutines return to. It calls drainAtFoot,
// and goes on in runtime.goexit. It is not called from Go.
//
//lint:ignore U1000 its address is taken by assembly
func exitTrampoline(s *sentinel)

// leaveByExit ends the goroutine, once its record is released. It does not return.
func leaveByExit()

//go:noescape
func trampolineAddress() uintptr

// installSlot tries it out on a goroutine, and changes nothing but this package's variables.
func installSlot() error {
	if forceMap {
		return errors.New("slot mode does not work without the spare words of stacks")
	}
	seen, err := probe()
	if err != nil {
		return err
	}
	if err := sameRuntime(seen.goexit); err != nil {
		return err
	}
	if room := probeStackBase - probeStackPointer; room != footRoom {
		return fmt.Errorf("goroutines begin %d bytes below the base of their stack, and not %d", room, footRoom)
	}
	exitAddress = probeReturnAddress
	trampoline := trampolineAddress()
	trampolineStart = trampoline + quantum
	// The experiment: a goroutine returns to exitTrampoline, behind its first instruction.
	experiment.found, experiment.err = 0, nil
	experiment.done = make(chan struct{})
	go experiment.run()
	<-experiment.done
	experiment.done = nil
	if experiment.err == nil && entryOfFunction(experiment.found) != trampoline {
		experiment.err = fmt.Errorf("a stack whose foot leads to %#x ends at %#x", trampoline, experiment.found)
	}
	if experiment.err != nil {
		return experiment.err // exitAddress stays: the experiment's goroutine may still have to go there
	}
	armedFoot = experiment.found
	findDescriptorFields() // before a goroutine with a record needs it
	value, current := slotFunctions()
	atomic.StoreUintptr(&valueCode, value)
	atomic.StoreUintptr(&currentCode, current)
	return nil
}

func entryOfFunction(pc uintptr) uintptr {
	if f := runtime.FuncForPC(pc); f != nil {
		return f.Entry()
	}
	return 0
}

var experiment slotExperiment

type slotExperiment struct {
	done  chan struct{} // nil unless the experiment is running
	found uintptr
	err   error
}

func (e *slotExperiment) run() {
	distance := findFoot()
	if distance == 0 {
		e.err = errors.New("a goroutine's return address is not at the foot of its stack")
		close(e.done)
		return
	}
	writeFoot(distance, trampolineStart, 0, nil)
}

// returned is called when the experiment's goroutine has returned to exitTrampoline.
func (e *slotExperiment) returned() {
	pcs := make([]uintptr, 64)
	e.found = pcs[runtime.Callers(0, pcs)-1]
	close(e.done)
}

var errFoot = errors.New("exeunt: slot mode does not find runtime.goexit's address at the foot of this stack, so this goroutine cannot use the package")

// armSlot gives a record to the running goroutine, which has none.
func armSlot(g uintptr) *record {
	// The foot of such a callback looks like that of any other goroutine.
	if isCallbackOfC(g) {
		panic(errCallback)
	}
	distance := findFoot()
	if distance == 0 {
		panic(errFoot)
	}
	r := allocate(g)
	var s *sentinel
	if r != nil {
		state := r.slotState()
		s, state.sentinel = state.sentinel, nil
		atomic.StoreUintptr(&state.number, ownNumber(g))
	} else {
		r = new(record)
	}
	if s == nil {
		s = new(sentinel)
		runtime.SetFinalizer(s, endedUnnoticed)
	}
	s.record = r
	r.armedAt = time.Since(started)
	r.owner.Store(g)
	if r.index == 0 {
		fallback.add(g, r, ownNumber(g))
	}
	writeFoot(distance, armedFoot, uintptr(r.index), s)
	return r
}

// endedUnnoticed is the finalizer of sentinels. A sentinel that is not in use belonged to a chunk that
// was removed.
func endedUnnoticed(s *sentinel) {
	if s.record != nil {
		go drainLate(s)
	}
}

// drainLate is the entry function of a goroutine that takes the place of one which has ended: it has
// that one's record, and returns to exitTrampoline. So handlers find the values.
func drainLate(s *sentinel) {
	runtime.SetFinalizer(s, endedUnnoticed)
	r, g, distance := s.record, getg(), findFoot()
	if distance == 0 {
		report(fmt.Errorf("%w; the handlers of a goroutine that has ended do not run", errFoot), nil)
		return
	}
	if r.index == 0 {
		fallback.remove(r.owner.Load(), 0, r)
		r.owner.Store(g)
		fallback.add(g, r, ownNumber(g))
	} else {
		atomic.StoreUintptr(&r.slotState().number, ownNumber(g))
		r.owner.Store(g)
	}
	r.ending = Exited
	writeFoot(distance, armedFoot, uintptr(r.index), s)
}

// drainAtFoot is called when an armed goroutine has returned.
//
//lint:ignore U1000 called by assembly
func drainAtFoot() {
	if experiment.done != nil {
		experiment.returned()
		return
	}
	if r := lookup(); r != nil {
		ending := Returned
		if r.ending == Exited {
			ending = Exited // see drainLate
		}
		r.end(ending, leaveByExit)
		return
	}
	disarmFoot() // or exitTrampoline would call again
}
