package site

// A Kind says how an instruction uses its target.
type Kind uint8

// The kinds. An Address is computed by the instruction, to be called or stored later.
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
	// next decodes the first instruction of code, which is at this address.
	next(code []byte, at uintptr) (instruction, bool)
	// coroExit reads the fields that the instructions before a call of runtime.mcall store. See
	// [Image.CoroExit].
	coroExit(before []instruction) (Fields, bool)
}

// Fields are two fields of a goroutine's descriptor (type g), as offsets into it.
type Fields struct {
	Coroarg  uintptr // pointer: the coroutine to switch to
	Coroexit uintptr // byte: 1 if the switch ends this goroutine
}

// plausible reports whether the offsets can be those of a descriptor: it has some 400 bytes, and
// its first fields are the stack's bounds and guards.
func plausible(fields Fields) bool {
	return fields.Coroarg%8 == 0 && fields.Coroarg >= 64 && fields.Coroarg < 1024 && fields.Coroexit >= 64 && fields.Coroexit < 1024
}
