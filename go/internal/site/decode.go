package site

// Kind is what an instruction refers to its target for.
type Kind uint8

// The kinds. An Address is one that is computed, to be called or stored later.
const (
	Call Kind = iota + 1
	Jump
	Address
)

type instruction struct {
	at, target uintptr
	code       []byte
	kind       Kind
}

type decoder interface {
	next(code []byte, at uintptr) (instruction, bool)
}
