//go:build exercise

package main

import "runtime"

func isMain() bool {
	pcs := make([]uintptr, 8)
	for {
		n := runtime.Callers(0, pcs)
		if n < len(pcs) {
			pcs = pcs[:n]
			break
		}
		pcs = make([]uintptr, 2*len(pcs)) // deeper than that: try a longer list
	}
	if len(pcs) < 2 {
		return false
	}
	return runtime.FuncForPC(pcs[len(pcs)-2]-1).Name() == "runtime.main"
}
