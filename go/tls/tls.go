// Package tls has the functions of go-tls, under the same names, for current versions of Go. A
// program that used github.com/huandu/go-tls changes its import path and works again.
//
// Two things that go-tls forbids are allowed: to use storage in a value's Close, and to call AtExit
// on the main goroutine. (In slot mode, the default on other systems than Linux, functions
// registered there are not called, and others are called late; see package exeunt.) New programs
// are better served by package exeunt, whose locals are typed and faster. A program can use both.
package tls

import (
	"fmt"
	"io"
	"runtime/debug"

	"exeunt.invalid/exeunt"
	"exeunt.invalid/exeunt/internal/report"
)

// Data is a value that is closed when it is dropped.
type Data interface {
	io.Closer
	Value() interface{}
}

// MakeData makes Data of any value. If the value implements io.Closer, the first Close of the Data
// closes it.
func MakeData(data interface{}) Data {
	closer, _ := data.(io.Closer)
	return &plainData{data, closer}
}

type plainData struct {
	value  interface{}
	closer io.Closer
}

func (d *plainData) Value() interface{} { return d.value }

func (d *plainData) Close() error {
	closer := d.closer
	if closer == nil {
		return nil
	}
	d.closer = nil
	return closer.Close()
}

// A table holds one goroutine's data, in the order in which the keys were first set.
type table struct {
	positions map[interface{}]int
	data      []entry
}

type entry struct {
	key  interface{}
	data Data // may be nil, since Set accepts nil
	set  bool // false: a tombstone, left by Del
}

var tables = exeunt.NewLocal[*table]()

// Close closes the data, the newest first. Data that is not closed yet can be used in the meantime.
// Data that a Close sets is closed in another round.
func (t *table) Close() error {
	tables.Set(t)
	n := len(t.data)
	defer func() {
		switch {
		case len(t.data) == 0:
			tables.Swap(nil) // Del would close t again
		case n > 0: // a Close called runtime.Goexit
			_ = t.Close()
		}
	}()
	for ; n > 0 && len(t.data) > 0; n-- {
		last := t.data[len(t.data)-1]
		t.data = t.data[:len(t.data)-1]
		if last.set {
			delete(t.positions, last.key)
		}
		if last.data != nil {
			closeAndReport(last.data)
		}
	}
	return nil
}

// closeAndReport reports at once, since a later Close may call runtime.Goexit.
func closeAndReport(d Data) {
	name := fmt.Sprintf("%T", d)
	if m, ok := d.(*plainData); ok {
		name = fmt.Sprintf("%T", m.value)
	}
	defer func() {
		if value := recover(); value != nil {
			report.Report(value, debug.Stack())
		}
	}()
	if err := d.Close(); err != nil {
		report.Report(fmt.Errorf("exeunt/tls: closing a %s: %w", name, err), nil)
	}
}

func (t *table) set(key interface{}, data Data) {
	if position, ok := t.positions[key]; ok {
		t.data[position].data = data
		return
	}
	if len(t.data) >= 2*len(t.positions)+32 {
		t.compact()
	}
	t.positions[key] = len(t.data)
	t.data = append(t.data, entry{key, data, true})
}

// compact removes the tombstones, so that a program which keeps deleting and setting a few keys
// uses a limited amount of memory.
func (t *table) compact() {
	kept := t.data[:0]
	for _, e := range t.data {
		if e.set {
			t.positions[e.key] = len(kept)
			kept = append(kept, e)
		}
	}
	clear(t.data[len(kept):])
	t.data = kept
}

// Get returns the running goroutine's data for a key.
func Get(key interface{}) (d Data, ok bool) {
	t := tables.Get()
	if t == nil {
		return nil, false
	}
	position, ok := t.positions[key]
	if !ok {
		return nil, false
	}
	return t.data[position].data, true
}

// Set sets the running goroutine's data for a key. It replaces earlier data without closing it.
func Set(key interface{}, data Data) {
	t := tables.Get()
	if t == nil {
		t = &table{positions: map[interface{}]int{}}
		tables.Set(t)
	}
	t.set(key, data)
}

// Del removes the running goroutine's data for a key, without closing it.
func Del(key interface{}) {
	t := tables.Get()
	if t == nil {
		return
	}
	if position, ok := t.positions[key]; ok {
		delete(t.positions, key)
		t.data[position] = entry{}
		for len(t.data) > 0 && !t.data[len(t.data)-1].set {
			t.data = t.data[:len(t.data)-1]
		}
	}
}

// ID returns a number that no other goroutine of this process has, or 0 where goroutine exits
// cannot be redirected (see exeunt.Install). After Unload the number is another one.
func ID() int64 {
	if exeunt.Install() != nil {
		return 0
	}
	return exeunt.ID()
}

// AtExit registers f to be called when the running goroutine ends. The function registered last is
// called first. The goroutine's data is still available in it. Calling stop takes the registration
// back and says whether that prevented the call, as with exeunt.AtExit; the AtExit of go-tls had no
// result.
func AtExit(f func()) (stop func() bool) { return exeunt.AtExit(f) }

// Reset closes and removes the running goroutine's data. Functions registered by AtExit stay.
func Reset() { exeunt.Reset() }

// Unload closes and removes the running goroutine's data, and removes the functions registered by
// AtExit, which are not called.
func Unload() { exeunt.Unload() }
