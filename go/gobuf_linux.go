//go:build linux && go1.25

package exeunt

// gobufBP is the offset of bp in the runtime's gobuf (src/runtime/runtime2.go).
//
//lint:ignore U1000 for assembly
const gobufBP = 40
