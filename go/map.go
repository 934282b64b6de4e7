package exeunt

import (
	"sync"
	"sync/atomic"
)

// others is the plain fallback: records found by a map from the goroutine's descriptor. It serves where the spare words could not be
// verified (useMap), and goroutines for which the table has no room.
var fallback recordMap

type recordMap struct {
	parts [64]struct {
		sync.RWMutex
		records map[uintptr]*record
		_       [32]byte
	}
}

// useMap is set by Install, before any goroutine has a record: the spare words cannot be relied on.
var useMap bool

// forceMap lets a test use the map where the spare words would serve.
var forceMap bool

func (m *recordMap) add(g uintptr, r *record) {
	part := &m.parts[g>>6%64]
	part.Lock()
	if part.records == nil {
		part.records = map[uintptr]*record{}
	}
	part.records[g] = r
	part.Unlock()
	atomic.AddUint32(&common.mapped, 1)
}

func (m *recordMap) remove(g uintptr) {
	part := &m.parts[g>>6%64]
	part.Lock()
	delete(part.records, g)
	part.Unlock()
	atomic.AddUint32(&common.mapped, ^uint32(0))
}

func (m *recordMap) get(g uintptr) *record {
	part := &m.parts[g>>6%64]
	part.RLock()
	r := part.records[g]
	part.RUnlock()
	return r
}
