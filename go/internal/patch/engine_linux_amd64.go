package patch

// engine calls the function in AX; it is for assembly alone.
//
//lint:ignore U1000 called by assembly
func engine()
