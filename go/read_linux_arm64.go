package exeunt

// On arm64 a read stays an indirect call. A function there begins with an instruction that must not
// be replaced while other threads may be running it.
var value, current = valueByAddress, currentByAddress

const jumpLength = 4

func makeReadsDirect() error { return nil }
