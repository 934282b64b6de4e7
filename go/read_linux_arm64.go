package exeunt

const jumpLength = 4

func makeReadsDirect() error { return nil }
