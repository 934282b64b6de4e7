// Package exeuntslog adds the values of chosen locals to the records of log/slog:
//
//	var user = exeunt.NewLocal[string]().Named("user")
//
//	slog.SetDefault(slog.New(exeuntslog.New(slog.NewJSONHandler(os.Stderr, nil), exeuntslog.Local(user))))
//
// Each record then has the value of the goroutine that makes it, also a record that a library makes
// which takes no context.
package exeuntslog

import (
	"context"
	"log/slog"

	"exeunt.invalid/exeunt"
)

// A Value is what New adds to records: an attribute of the running goroutine, and whether it has one.
type Value func() (slog.Attr, bool)

// Local is the value of a local, on goroutines that have set one. The key is the local's name, which
// [exeunt.Local.Named] must have given to it before.
func Local[T any](l *exeunt.Local[T]) Value {
	key := l.Name()
	if key == "" {
		panic("exeuntslog: the local has no name: write exeunt.NewLocal[T]().Named(name)")
	}
	return func() (slog.Attr, bool) {
		v, ok := l.Lookup()
		if !ok {
			return slog.Attr{}, false
		}
		return slog.Any(key, v), true
	}
}

// New returns a handler that adds values to each record and gives the record to next. A record is
// handled on the goroutine that makes it, unless another handler outside of this one passes it on.
//
// The attributes are outside of all groups, whatever groups a logger has opened by
// [slog.Logger.WithGroup]. In a logger with open groups a record takes longer: its groups and
// attributes are given to next anew.
func New(next slog.Handler, values ...Value) slog.Handler {
	return &handler{next: next, outermost: next, values: values}
}

type handler struct {
	next      slog.Handler // with all attributes and groups
	outermost slog.Handler // with the attributes before the first group
	// groups makes next of outermost. It is empty if no group is open.
	groups []func(slog.Handler) slog.Handler
	values []Value
}

func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h *handler) Handle(ctx context.Context, record slog.Record) error {
	var attrs []slog.Attr
	for _, value := range h.values {
		if attr, ok := value(); ok {
			attrs = append(attrs, attr)
		}
	}
	if len(attrs) == 0 {
		return h.next.Handle(ctx, record)
	}
	if len(h.groups) == 0 {
		record = record.Clone() // other handlers may have it as well
		record.AddAttrs(attrs...)
		return h.next.Handle(ctx, record)
	}
	next := h.outermost.WithAttrs(attrs)
	for _, group := range h.groups {
		next = group(next)
	}
	return next.Handle(ctx, record)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	add := func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) }
	if len(h.groups) == 0 {
		next := add(h.next)
		return &handler{next: next, outermost: next, values: h.values}
	}
	return h.within(add)
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.within(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h *handler) within(change func(slog.Handler) slog.Handler) slog.Handler {
	groups := append(h.groups[:len(h.groups):len(h.groups)], change)
	return &handler{change(h.next), h.outermost, groups, h.values}
}
