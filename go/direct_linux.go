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
func shorten() error {
	return errors.Join(shortenReads(), shortenEnds())
}

// shortenEnds lets endByReturn jump to runtime.goexit1 itself.
func shortenEnds() error {
	if useMap {
		return nil // the function that serves then has more to do than to go on
	}
	byReturn, _, _, _, _ := entryPoints(true)
	jump, err := image.One(site.Jump, byReturn, packagePath+".goOnByReturn")
	if err == nil {
		err = patch.Replace(jump.At, jumpLength, common.nextByReturn)
	}
	if err != nil {
		return fmt.Errorf("endByReturn: %w", err)
	}
	return nil
}
