package exeunt

import "time"

// lookupOrArm returns the running goroutine's record, and gives it one if it has none.
func lookupOrArm() *record {
	if r := lookup(); r != nil {
		return r
	}
	return arm()
}

// arm gives a record to the running goroutine, which has none.
func arm() *record {
	if err := Install(); err != nil {
		panic(err)
	}
	g := getg()
	if inSlotMode() {
		return armSlot(g)
	}
	if inCollectedMode() {
		return armCollected(g)
	}
	if !useMap {
		if r := allocate(g); r != nil {
			r.armedAt = time.Since(started)
			r.owner.Store(g)
			setSpareWords(uint64(r.index))
			return r
		}
	}
	r := new(record)
	r.armedAt = time.Since(started)
	r.owner.Store(g)
	fallback.add(g, r, 0)
	if !useMap {
		// The words are valid, but index 0 is never in the table: the hook that runs at the
		// goroutine's end then finds the record in the map.
		setSpareWords(0)
	}
	return r
}
