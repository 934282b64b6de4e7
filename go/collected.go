package exeunt

import (
	"errors"
	"runtime"
	"sync/atomic"
	"time"
)

// Collected mode: neither code nor stacks are changed
//
// A goroutine's descriptor tells which goroutine it is, by the number in tracebacks, and whether it has
// ended, by its status. Both are read and never written. A descriptor is used again for later goroutines,
// and is never freed. So a record belongs to the goroutine with its descriptor and its number, and that
// has ended once the descriptor has another number, or the status of one that has ended.
//
// Each collection is followed by a look at the descriptors of all goroutines with records, since an
// object that nothing leads to has a finalizer which makes the next one. It runs on the goroutine of
// finalizers: for the race detector what an ended goroutine has done comes before that.

// The status of a goroutine, in src/runtime/runtime2.go. A bit is added to it while its stack is scanned.
const (
	statusRunning = 2
	statusDead    = 6
	statusScanned = 0x1000
)

// statusAt is the offset of the status in a descriptor.
var statusAt uintptr

func statusIn(g, at uintptr) uint32 { return descriptorHalf(g, at) &^ statusScanned }

// installCollected verifies what is known about descriptors, and changes nothing but this package's
// variables.
func installCollected() error {
	number := findDescriptorFields().number
	if number == 0 {
		return errors.New("a goroutine's number is not found in its descriptor")
	}
	at, err := findStatus(number)
	if err != nil {
		return err
	}
	statusAt, useMap, fallback.byNumber = at, true, true
	numberAt.Store(number)
	readByNumber()
	noticeEnds(new(afterCollection))
	return nil
}

// findStatus verifies on three goroutines that the status is where it is expected: before the number, with
// four bytes between, and on 32-bit systems perhaps with the number's upper half. It says that a
// goroutine is running, then that it is waiting, then that it has ended.
func findStatus(number uintptr) (at uintptr, err error) {
	err = errors.New("the status of a goroutine is not found in its descriptor")
	for _, before := range []uintptr{8, 12} {
		if number < before {
			continue
		}
		for found := 0; statusChanges(number, number-before); {
			if found++; found == 3 {
				return number - before, nil
			}
		}
	}
	return 0, err
}

func statusChanges(number, at uintptr) bool {
	// If another goroutine gets the descriptor before the status is read, a further one has to be tried.
	for attempt := 0; attempt < 100; attempt++ {
		type own struct {
			g, number uintptr
			running   bool
		}
		seen, end := make(chan own, 1), make(chan struct{})
		go func() {
			g := getg()
			seen <- own{g, descriptorWord(g, number), statusIn(g, at) == statusRunning}
			<-end
		}()
		it := <-seen
		ended := statusIn(it.g, at) == statusDead
		close(end)
		if !it.running || ended {
			return false
		}
		for i := 0; i < 1000 && descriptorWord(it.g, number) == it.number; i++ {
			if statusIn(it.g, at) == statusDead {
				return true
			}
			runtime.Gosched()
			if i > 100 {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}
	return false
}

// armCollected gives a record to the running goroutine, which has none.
func armCollected(g uintptr) *record {
	if isCallbackOfC(g) {
		panic(errCallback)
	}
	r := new(record)
	r.armedAt = time.Since(started)
	r.owner.Store(g)
	fallback.add(g, r, descriptorWord(g, numberAt.Load()))
	return r
}

// An afterCollection is an object that nothing leads to, so that each collection finds it. (It has a
// pointer because small objects without one share their memory with others.)
type afterCollection struct{ _ *byte }

// noticeEnds is its finalizer.
func noticeEnds(a *afterCollection) {
	runtime.SetFinalizer(a, noticeEnds)
	if atomic.LoadUint32(&common.mapped) == 0 {
		return
	}
	for i := range fallback.parts {
		for _, r := range fallback.take(i, hasEnded) {
			go drainEnded(r)
		}
	}
}

// hasEnded returns true once the end was seen before, after an earlier collection. So the end comes before the
// goroutine of finalizers has run this time, for the race detector as well.
func hasEnded(m *mapped) (seenBefore bool) {
	seenBefore = m.seen
	m.seen = seenBefore || descriptorWord(m.g, numberAt.Load()) != m.number || statusIn(m.g, statusAt) == statusDead
	return seenBefore
}

// drainEnded is the entry function of a goroutine that takes the place of one which has ended: it has
// that one's record. So handlers find the values.
func drainEnded(r *record) {
	g := getg()
	r.owner.Store(g)
	fallback.add(g, r, descriptorWord(g, numberAt.Load()))
	atomic.AddUint32(&common.mapped, ^uint32(0)) // it was counted already
	r.end(Ended, leaveBesides)
}

// leaveBesides is called where a handler calls runtime.Goexit, which goes on afterwards, and ends the
// goroutine.
func leaveBesides() {}
