package exeunt

// currentByNumber is lookup in collected mode. The record of an earlier goroutine with this descriptor has
// another number. Before the installation no goroutine has one.
func currentByNumber() *record {
	at := numberAt.Load()
	if at == 0 {
		return nil
	}
	g := getg()
	return fallback.get(g, descriptorWord(g, at))
}
