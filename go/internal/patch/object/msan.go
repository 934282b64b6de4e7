//go:build msan && linux

package object

// #cgo amd64 LDFLAGS: -L${SRCDIR}/.. -l:exeunt_linux_amd64.syso
// #cgo arm64 LDFLAGS: -L${SRCDIR}/.. -l:exeunt_linux_arm64.syso
import "C"
