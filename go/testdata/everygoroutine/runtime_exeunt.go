package runtime

import _ "unsafe" // for go:linkname

// An overlay adds this file to package runtime, for go/every-goroutine.sh. The
// overlay also makes newproc1 start every goroutine that is not the runtime's own at exeuntBegin.

// exeuntStart is called at the start of every goroutine, on that goroutine. The tests set it.
//
//go:linkname exeuntStart
var exeuntStart func()

// exeuntBegin calls exeuntCall and then jumps to the entry function. Its own frame is gone by then,
// so the stack is what it is without it.
func exeuntBegin()

func exeuntCall(entry *funcval) *funcval {
	// In slot mode this goroutine takes the place of one that has ended.
	switch funcname(findfunc(entry.fn)) {
	case "exeunt.endedUnnoticed.gowrap1", "exeunt.invalid/exeunt.endedUnnoticed.gowrap1":
	default:
		exeuntStart()
	}
	return entry // as a result, because the collector does not follow the caller's copy
}
