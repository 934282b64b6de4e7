package exeunt

import "io"

// end drains a goroutine that is about to end, and releases its record. It then returns. If a
// handler or a Close calls runtime.Goexit, end calls leave instead of returning.
func (r *record) end(ending End, leave func()) {
	r.ending, r.leave = ending, leave
	r.contextAtEnd, r.hadContext = r.context, r.hasContext
	r.pins++
	r.running = 0 // an end that began in a handler replaces the one that ran the handler
	r.drain()
	r.release()
}

// maxRounds limits the rounds of a drain. A further round follows if a Close has set values or
// registered handlers.
const maxRounds = 100

func (r *record) drain() {
	for round := 0; round < maxRounds; round++ {
		for len(r.handlers) > 0 {
			r.runLast()
		}
		r.closeValues()
		if len(r.handlers) > 0 || r.closes {
			continue
		}
		if r.aside == nil {
			return
		}
		// os.Exit was called within Captured.Run. What that has put aside has to be closed too.
		r.putBack()
		round = -1
	}
	r.dropRemaining()
}

// dropRemaining drops the values and handlers that are left after maxRounds.
func (r *record) dropRemaining() {
	report("exeunt: values and handlers were still being added after 100 rounds of closing and running them; the remaining ones are dropped", nil)
	r.dropSlots()
	r.closes = false
}

// runLast runs the handler that was registered last, unless it was stopped.
func (r *record) runLast() {
	last := len(r.handlers) - 1
	f := r.handlers[last].take()
	r.handlers[last] = nil
	r.handlers = r.handlers[:last]
	if f != nil {
		r.run(f)
	}
}

// run calls a handler or a Close. If f panics, run reports that and returns. If f calls
// runtime.Goexit while the goroutine is ending, run completes the end.
func (r *record) run(f func()) {
	returned := false
	r.running++
	defer func() {
		r.running--
		if returned {
			return
		}
		if value := recover(); value != nil {
			reportPanic(value)
			return
		}
		// f called runtime.Goexit. Values that closeValues has not reached yet still have to be
		// closed.
		r.closes, r.closing = closers.Load() != nil, false
		// If the goroutine is ending, it ends here, after the remaining handlers and Close calls.
		// To continue the Goexit would lose the other ends (of main, of the process, of a
		// coroutine), and would walk a second time through frames that an earlier Goexit has left,
		// on which Go 1.27 fails ("unknown pc 0x0", nextFrame in src/runtime/panic.go). If a
		// handler called Reset, and that ran this Close, the Goexit ends the handler too; the
		// handler's deferred functions run first.
		if leave := r.leave; leave != nil && r.running == 0 {
			// The functions that With has called have ended as well.
			r.context, r.hasContext = r.contextAtEnd, r.hadContext
			r.drain()
			r.release()
			leave()
		}
	}()
	f()
	returned = true
}

// closeAll closes values that are no longer in the record, as closeRemoved does.
func (r *record) closeAll(values []io.Closer) {
	if len(values) > 0 {
		defer r.closeAll(values[1:]) // also if the Close calls runtime.Goexit
		r.closeRemoved(values[0])
	}
}

// closeRemoved closes a value that is no longer in the record, of a goroutine that goes on. A panic
// and an error are reported. The Close may use storage, and may call Unload.
func (r *record) closeRemoved(c io.Closer) {
	r.pins++
	defer func() { r.pins-- }() // also if the Close calls runtime.Goexit
	r.run(func() { closeAndReport(c) })
}

// closeValues closes the values, those of the local created last first, and removes all of them. A
// Close may use storage: it can read the values that are not closed yet, or Reset them. Values that
// it sets are closed in another round.
func (r *record) closeValues() {
	if r.closes || r.closing {
		within := r.closing
		r.closes, r.closing = false, true
		all := *closers.Load()
		for i := inlineSlots + len(r.moreSlots()) - 1; i >= 0; i-- {
			s := r.slot(i)
			if s == nil || *s == (slot{}) || i >= len(all) || all[i] == nil {
				continue
			}
			c := all[i](s)
			*s = slot{}
			if c != nil {
				r.run(func() { closeAndReport(c) })
			}
		}
		r.closing = within
		if r.closes {
			return
		}
	}
	r.dropSlots()
}

// reset closes and removes the values.
func (r *record) reset() {
	r.pins++
	defer func() { r.pins-- }() // also if a Close calls runtime.Goexit
	for round := 0; round < maxRounds; round++ {
		r.closeValues()
		if !r.closes {
			return
		}
	}
	r.dropRemaining()
}

// unload removes everything without running the handlers. The record is not released in a handler
// or a Close, nor if a Close has registered handlers; it is then in the state of a new one.
func (r *record) unload() {
	r.dropHandlers()
	r.reset()
	r.id.Store(0)
	r.context, r.hasContext = nil, false
	if r.pins == 0 && len(r.handlers) == 0 {
		r.release()
	}
}

// maxKeptHandlers is the largest capacity of handlers that a free record keeps.
const maxKeptHandlers = 8

// release returns the record to the table. The goroutine has none afterwards.
func (r *record) release() {
	if inSlotMode() {
		r.keepSentinel(disarmFoot())
	} else if !useMap {
		clearSpareWords()
	}
	r.dropHandlers()
	if cap(r.handlers) > maxKeptHandlers {
		r.handlers = nil
	}
	r.dropSlots()
	r.closes, r.hasContext, r.pins, r.ending = false, false, 0, Running
	r.context, r.contextAtEnd, r.hadContext, r.leave, r.aside = nil, nil, false, nil, nil
	r.closing, r.running = false, 0
	freeRecord(r)
}
