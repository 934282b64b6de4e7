package exeunt

// own is the running goroutine's record; it has one afterwards.
func lookupOrArm() *record {
	if r := lookup(); r != nil {
		return r
	}
	return arm()
}

// arm gives the running goroutine, which has none, a record.
func arm() *record {
	if err := Install(); err != nil {
		panic(err)
	}
	g := getg()
	if !useMap {
		if r := allocate(g); r != nil {
			r.owner.Store(g)
			setSpareWords(uint64(r.index))
			return r
		}
	}
	r := new(record)
	r.owner.Store(g)
	fallback.add(g, r)
	if !useMap {
		setSpareWords(0) // valid words with no place in the table: at the goroutine's end it is looked for in the map
	}
	return r
}
