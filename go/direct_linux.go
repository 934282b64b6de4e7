//go:build linux && (amd64 || arm64)

package exeunt

import (
	"errors"
	"fmt"

	"exeunt.invalid/exeunt/internal/patch"
	"exeunt.invalid/exeunt/internal/site"
)

// makeDirect replaces indirect calls and jumps by direct ones: where a value is read (amd64), and
// where every goroutine ends. Some processors do not predict indirect branches. Each replacement is
// one store, which is safe while other threads run the code. What cannot be replaced continues to
// work indirectly; the error says why.
func makeDirect() error {
	return errors.Join(makeReadsDirect(), makeEndsDirect())
}

// makeEndsDirect makes returnHook jump to runtime.goexit1 itself.
func makeEndsDirect() error {
	if useMap {
		return nil // the hook in use is then returnHookSlow, which does not end in a jump
	}
	atReturn, _, _, _, _, _ := hookAddresses(true)
	jump, err := image.One(site.Jump, atReturn, packagePath+".jumpToReturnTarget")
	if err == nil {
		err = patch.Replace(jump.At, jumpLength, common.returnTarget)
	}
	if err != nil {
		return fmt.Errorf("returnHook: %w", err)
	}
	return nil
}
