package exeunt

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
)

// A Goroutine describes a goroutine that uses this package, as [Goroutines] has found it.
type Goroutine struct {
	ID     int64     // what the function ID returns there
	Number uint64    // its number in the runtime's tracebacks, or 0 if that is not known
	Armed  time.Time // when it first used this package
	End    End       // how it is ending; Running while it is not
	Values []string  // the names of the locals of which it has a value (see Local.Named)

	creator uintptr
}

// Age returns how long ago the goroutine first used this package.
func (g Goroutine) Age() time.Duration { return time.Since(g.Armed) }

// CreatedBy returns the go statement that has started the goroutine: Function, File and Line of the
// code that contains it. They are empty where there is none, as for callbacks from threads of C.
// The main goroutine's is in runtime.rt0_go, and that of an [iter.Pull] is there.
func (g Goroutine) CreatedBy() runtime.Frame {
	if g.creator == 0 {
		return runtime.Frame{}
	}
	frame, _ := runtime.CallersFrames([]uintptr{g.creator}).Next()
	return frame
}

// String returns all of it on one line.
func (g Goroutine) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "goroutine %d (ID %d), %s, armed %v ago", g.Number, g.ID, g.End, g.Age().Round(time.Microsecond))
	if by := g.CreatedBy(); by.Function != "" {
		fmt.Fprintf(&s, ", created by %s (%s:%d)", by.Function, by.File, by.Line)
	}
	if len(g.Values) > 0 {
		fmt.Fprintf(&s, ", with %s", strings.Join(g.Values, ", "))
	}
	return s.String()
}

// Goroutines returns an iterator over the goroutines that use this package at present: those that
// have called AtExit, ID, With or Run, or have set a value, and have neither ended nor called
// [Unload] since. It can be given to range from Go 1.23 on.
//
// It is for leak detectors and metrics. It does not stop the others: a goroutine that begins or
// ends meanwhile may be there or not. Each of the others is there once, or twice if it calls Unload
// and uses the package again. The order is none in particular. The values themselves cannot be
// read, since their goroutine may be changing them. The body of the loop may do anything, also use
// this package.
//
// Where ends are noticed late, a goroutine that has ended may still be there until its handlers have
// run: in [Slot] mode one that has ended by [runtime.Goexit] or as that of an [iter.Pull], in
// [Collected] mode any. While its handlers run it has the Number and the CreatedBy of the goroutine
// on which they run.
//
// An iteration takes a lock for each 256 goroutines in turn, for some microseconds. A goroutine
// that uses the package for the first time, or ends, may wait for it; reads and writes never do.
// At all other times it costs one reading of the clock (30 ns) when a goroutine is armed. The
// record of 256 bytes that an armed goroutine has anyway has room for the time.
func Goroutines() func(yield func(Goroutine) bool) {
	return func(yield func(Goroutine) bool) {
		if Install() != nil {
			return
		}
		fields := findDescriptorFields()
		locals.Lock()
		names := locals.named
		locals.Unlock()
		var found []Goroutine
		note := func(r *record, number uintptr) {
			g := r.owner.Load()
			if g == 0 || outlived(g, fields, number) {
				return
			}
			// In slot mode the owner may end meanwhile, and its descriptor be used again.
			if d := r.describe(g, fields, names); r.owner.Load() == g && !outlived(g, fields, number) {
				found = append(found, d)
			}
		}
		// yield is called without a lock.
		pass := func() bool {
			for _, g := range found {
				if !yield(g) {
					return false
				}
			}
			found = found[:0]
			return true
		}
		for number := 0; number < usedChunks(); number++ {
			if c := chunks[number].Load(); c != nil {
				c.home.Lock()
				if chunks[number].Load() == c { // otherwise it is removed, and empty
					for i := range c.records {
						number := uintptr(0)
						if c.slots != nil {
							number = atomic.LoadUintptr(&c.slots[i].number)
						}
						note(&c.records[i], number)
					}
				}
				c.home.Unlock()
				if !pass() {
					return
				}
			}
		}
		for i := range fallback.parts {
			fallback.each(i, func(m *mapped) { note(m.record, m.number) })
			if !pass() {
				return
			}
		}
	}
}

// outlived reports whether the descriptor belongs to another goroutine than the one with this number
// by now. In slot and collected mode a record may still wait to be drained then. Until the descriptor is
// used again it keeps the number of a goroutine that has ended, which is therefore listed.
func outlived(g uintptr, fields descriptorFields, number uintptr) bool {
	return InForce() != Code && fields.number != 0 && descriptorWord(g, fields.number) != number
}

// usedChunks is more than the number of every chunk.
func usedChunks() int {
	chunkNumbers.Lock()
	defer chunkNumbers.Unlock()
	return int(chunkNumbers.next)
}

// describe is called with the lock that release takes. Until it is unlocked the owner cannot end,
// except in slot mode, by runtime.Goexit or as a coroutine. What describe has read is then its own only
// if it has not outlived its descriptor afterwards. (newproc1 writes the creator a moment before the
// number; a goroutine that is listed in this moment, after its end, has the next one's creator.)
func (r *record) describe(g uintptr, fields descriptorFields, names []named) Goroutine {
	d := Goroutine{ID: r.identity(), Armed: started.Add(r.armedAt), End: r.currentEnding()}
	if fields.number != 0 {
		d.Number = uint64(descriptorWord(g, fields.number))
	}
	if fields.creator != 0 {
		d.creator = descriptorWord(g, fields.creator)
	}
	for _, local := range names {
		if r.hasValue(local) {
			d.Values = append(d.Values, local.name)
		}
	}
	return d
}

// currentEnding and hasValue read what the owner may be writing, without the order that the race
// detector asks for. Each reads one byte or one aligned word, which is as it was before or after the
// write, and follows no pointer but that of record.more, which is atomic.
//
//go:norace
func (r *record) currentEnding() End { return r.ending }

//go:norace
func (r *record) hasValue(local named) bool {
	var s *slot
	if local.index < inlineSlots {
		s = &r.slots[local.index]
	} else if more := r.more.Load(); more != nil && local.index-inlineSlots < len(*more) {
		s = &(*more)[local.index-inlineSlots]
	}
	if s == nil {
		return false
	}
	if local.kind == scalar {
		return s.pointer != nil
	}
	return s.word != 0
}
