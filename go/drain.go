package exeunt

// end drains a goroutine that is about to end, and gives its record back.
func (r *record) end(leave func()) {
	r.leave = leave
	r.contextAtEnd, r.hadContext = r.context, r.hasContext
	r.pins++
	r.running = 0 // what this end has come out of does not go on
	r.drain()
	r.release()
}

// Values whose Close sets values again, and handlers that such a Close registers, are taken care of in further rounds.
const maxRounds = 100

func (r *record) drain() {
	for round := 0; round < maxRounds; round++ {
		for len(r.handlers) > 0 {
			r.runLast()
		}
		r.closeValues()
		if len(r.handlers) == 0 && !r.closes {
			return
		}
	}
	r.dropRemaining()
}

// dropRemaining drops what was still being added.
func (r *record) dropRemaining() {
	report("exeunt: values and handlers were still being added after 100 rounds of closing and running them; what is left is dropped", nil)
	r.slots = [inlineSlots]slot{}
	r.more = nil
	r.closes = false
}

// runLast runs the handler registered last.
func (r *record) runLast() {
	last := len(r.handlers) - 1
	handler := r.handlers[last]
	r.handlers[last] = nil
	r.handlers = r.handlers[:last]
	r.run(handler)
}

// run calls a handler or a Close, and survives whatever it does.
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
		// f called runtime.Goexit. What closeValues has not come to yet is still to be closed.
		r.closes, r.closing = closers.Load() != nil, false
		// If the goroutine is ending, it ends here, after what is left has run: going on with Goexit would lose the
		// other ends (of main, of the process, of a coroutine), and walk a second time through frames that an earlier Goexit
		// has left behind, which Go 1.27 takes badly ("unknown pc 0x0", nextFrame in src/runtime/panic.go). A Close that a
		// handler has closed by Reset ends the handler too, whose deferred functions run before that.
		if leave := r.leave; leave != nil && r.running == 0 {
			r.context, r.hasContext = r.contextAtEnd, r.hadContext // the functions that With has called are left as well
			r.drain()
			r.release()
			leave()
		}
	}()
	f()
	returned = true
}

// closeValues closes what can be closed, the local created last first, and forgets all values. A Close may use storage: it finds the values
// that are not closed yet, which it can also Reset, and what it sets is closed by another round.
func (r *record) closeValues() {
	if r.closes || r.closing {
		within := r.closing
		r.closes, r.closing = false, true
		all := *closers.Load()
		for i := inlineSlots + len(r.more) - 1; i >= 0; i-- {
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
	r.slots = [inlineSlots]slot{}
	r.more = nil
}

// reset closes and forgets the values.
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

// unload forgets everything without running the handlers. In a handler or a Close the record stays, as if it were a new one; so it does if
// a Close has registered handlers.
func (r *record) unload() {
	clear(r.handlers)
	r.handlers = r.handlers[:0]
	r.reset()
	r.id, r.context, r.hasContext = 0, nil, false
	if r.pins == 0 && len(r.handlers) == 0 {
		r.release()
	}
}

// Handlers kept room for in a free record.
const maxKeptHandlers = 8

// release gives the record back: from here on the goroutine has none.
func (r *record) release() {
	if !useMap {
		clearSpareWords()
	}
	clear(r.handlers)
	if cap(r.handlers) > maxKeptHandlers {
		r.handlers = nil
	}
	r.handlers = r.handlers[:0]
	r.slots = [inlineSlots]slot{}
	r.more = nil
	r.id, r.closes, r.hasContext, r.pins = 0, false, false, 0
	r.context, r.contextAtEnd, r.hadContext, r.leave = nil, nil, false, nil
	r.closing, r.running = false, 0
	freeRecord(r)
}
