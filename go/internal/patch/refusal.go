//go:build linux && (amd64 || arm64)

package patch

import (
	"fmt"
	"syscall"
)

// A Refusal says why the engine changed nothing: a reason in the low 8 bits, and above them the
// error number of a system call that failed. The numbers are those of Reason in
// patch/src/raw/refusal.rs.
type Refusal int32

// NotRestored is the only reason after which the program is not unchanged.
const NotRestored = 10

var reasons = [...]string{
	1:           "there is no direct call or jump at this address",
	2:           "the call no longer leads to the expected target",
	3:           "the replacement is further away than a call can reach",
	4:           "no single store can change it",
	5:           "the code is not in memory that is mapped readable and executable",
	6:           "the kernel's list of mappings could not be read",
	7:           "writing to the code's page was refused",
	8:           "membarrier was refused, so other processors could not be made to see new code",
	9:           "the code changed while it was examined: other code patches it too",
	NotRestored: "the page's protection could not be restored",
	11:          "the instruction is shorter than a jump",
	12:          "this instruction must not be replaced while other threads may be executing it",
}

func refusal(code int32) error {
	if code == 0 {
		return nil
	}
	return Refusal(code)
}

// Reason returns the number without the system's error number.
func (r Refusal) Reason() int { return int(r & 0xff) }

func (r Refusal) Error() string {
	text := fmt.Sprintf("the patch engine gave reason %d", r.Reason())
	if n := r.Reason(); n > 0 && n < len(reasons) {
		text = reasons[n]
	}
	if errno := syscall.Errno(r >> 8); errno != 0 {
		text += ": " + errno.Error()
	}
	return text
}
