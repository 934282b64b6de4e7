package exeunt

import "sync/atomic"

// lookup returns the running goroutine's record, or nil.
func lookup() *record {
	if r := current(); r != nil {
		return r
	}
	return lookupInMap()
}

func lookupInMap() *record {
	if atomic.LoadUint32(&common.mapped) == 0 {
		return nil
	}
	if inSlotMode() && !footIsOurs() {
		return nil // there may be the record of an earlier goroutine with this descriptor
	}
	if inCollectedMode() {
		return currentByNumber()
	}
	return fallback.get(getg(), 0)
}
