// Package exeuntpprof keeps the labels that a goroutine has in profiles (see [pprof.Do]) where code
// without a context can add to them, read them, and pass them on.
//
// pprof.Do takes the labels that a goroutine already has from a context. Code that has none would
// lose them. This package has the context in an inheritable local. Labels that the program has set
// otherwise are not there: give [Context] to pprof.Do if it is called within [Do].
package exeuntpprof

import (
	"context"
	"runtime/pprof"

	"exeunt.invalid/exeunt"
)

type labels struct{ ctx context.Context }

var current = exeunt.NewInheritable[*labels](nil).Named("pprof labels")

// Context returns a context that has the running goroutine's labels, and nothing else.
func Context() context.Context {
	if l := current.Get(); l != nil {
		return l.ctx
	}
	return context.Background()
}

// Label returns the value of a label of the running goroutine.
func Label(key string) (value string, ok bool) { return pprof.Label(Context(), key) }

// Do calls fn with these labels, beside those that the goroutine has by an outer Do or by [Add].
// When fn returns, panics or calls runtime.Goexit, the goroutine has the labels of before. fn's plain
// go statements pass the labels on to profiles, as always, but not to this package: start goroutines
// by [Go], and give functions to pools by [Wrap].
//
// Where goroutine exits cannot be redirected (see [exeunt.Install]), Do only sets the labels.
func Do(set pprof.LabelSet, fn func()) {
	if exeunt.Install() != nil {
		pprof.Do(context.Background(), set, func(context.Context) { fn() })
		return
	}
	before := current.Get()
	defer func() { use(before) }()
	use(&labels{pprof.WithLabels(Context(), set)})
	fn()
}

// Add gives the running goroutine these labels until it ends, or until the Do ends that it is in. It
// panics like [exeunt.Local.Set].
func Add(set pprof.LabelSet) { use(&labels{pprof.WithLabels(Context(), set)}) }

// use makes these the goroutine's labels, for this package and for profiles.
func use(l *labels) {
	if l == nil {
		current.Del()
	} else {
		current.Set(l)
	}
	pprof.SetGoroutineLabels(Context())
}

// Go is [exeunt.Go], and the new goroutine has the labels of the running one.
func Go(fn func()) {
	exeunt.Go(func() {
		pprof.SetGoroutineLabels(Context())
		fn()
	})
}

// Wrap is [exeunt.Wrap], and the function that it returns has the labels of the goroutine that has
// called Wrap, in place of its own. It puts those back.
func Wrap(fn func()) func() {
	captured := exeunt.Capture()
	return func() {
		defer func() { pprof.SetGoroutineLabels(Context()) }()
		captured.Run(func() {
			pprof.SetGoroutineLabels(Context())
			fn()
		})
	}
}
