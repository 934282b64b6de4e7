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
	// next decodes the instruction at the beginning of code, whose address is at.
	next(code []byte, at uintptr) (instruction, bool)
	// coroExit reads the fields that the instructions before a call of runtime.mcall store; see [Image.CoroExit].
	coroExit(before []instruction) (Fields, bool)
}

// Fields are two fields of a goroutine's descriptor (type g), as offsets into it.
type Fields struct {
	Coroarg  uintptr // pointer: the coroutine to switch to
	Coroexit uintptr // byte: 1 if the switch ends this goroutine
}

// plausible keeps to what a descriptor of some 400 bytes can have; its first fields are the stack's bounds and guards.
func plausible(fields Fields) bool {
	return fields.Coroarg%8 == 0 && fields.Coroarg >= 64 && fields.Coroarg < 1024 && fields.Coroexit >= 64 && fields.Coroexit < 1024
}
