//go:build linux && (amd64 || arm64)

package exeunt

import (
	"errors"
	"fmt"

	"exeunt.invalid/exeunt/internal/patch"
	"exeunt.invalid/exeunt/internal/site"
)

// shorten makes indirect calls and jumps direct ones, since some processors do not predict the others: where a value is read (amd64), and where
// every goroutine ends. Each is one store, which is made while other threads run there. What cannot be changed goes on to work the long
// way; the error is why.
func makeDirect() error {
	return errors.Join(makeReadsDirect(), makeEndsDirect())
}

// makeEndsDirect lets returnHook jump to runtime.goexit1 itself.
func makeEndsDirect() error {
	if useMap {
		return nil // the function that serves then has more to do than to go on
	}
	atReturn, _, _, _, _ := hookAddresses(true)
	jump, err := image.One(site.Jump, atReturn, packagePath+".jumpToReturnTarget")
	if err == nil {
		err = patch.Replace(jump.At, jumpLength, common.returnTarget)
	}
	if err != nil {
		return fmt.Errorf("returnHook: %w", err)
	}
	return nil
}
