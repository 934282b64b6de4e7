package site

import "fmt"

// CoroExit reads the offsets from the stores that runtime.coroexit makes just before it calls
// runtime.mcall (src/runtime/coro.go, Go 1.23 to 1.27):
//
//	gp.coroarg = c              mov [gp+disp32], c        str c, [gp, #imm]
//	gp.coroexit = true          movb [gp+disp32], 1       orr t, zr, #1; strb t, [gp, #imm]
//	mcall(coroswitch_m)         lea rax, …; call          adrp, add; bl
func (im Image) CoroExit(call Ref) (Fields, error) {
	arch, err := im.arch()
	if err != nil {
		return Fields{}, err
	}
	fields, ok := arch.coroExit(call.prefix)
	if !ok {
		code := ""
		for _, before := range call.prefix {
			code += fmt.Sprintf(" %x", before.code)
		}
		return fields, fmt.Errorf("the instructions before the call of %s store no known pair of fields:%s", call.Name, code)
	}
	return fields, nil
}
