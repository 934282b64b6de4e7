package patch

// engine calls the function in AX; it is for assembly alone.
func engine()
