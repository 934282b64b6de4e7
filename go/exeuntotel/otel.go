// Package exeuntotel passes OpenTelemetry's context to code that takes none. A goroutine's context
// is the one that [exeunt.With] has been given, and spans are begun in it:
//
//	http.ListenAndServe(address, otelhttp.NewHandler(exeuntotel.Handler(mux), "server"))
//
//	func query() { // takes no context
//		exeuntotel.Do(tracer, "query", func() { ... })
//	}
//
// [exeunt.Go], [exeunt.Wrap] and [exeunt.Capture] pass the context on.
package exeuntotel

import (
	"context"
	"net/http"

	"exeunt.invalid/exeunt"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// ofGoroutine has the context of [Goroutine]'s span.
var ofGoroutine = exeunt.NewInheritable[*whole](nil).Named("OpenTelemetry span")

type whole struct{ ctx context.Context }

// Context returns the running goroutine's context: that of the innermost [Do] or [exeunt.With].
// Outside of them, and where With was given something that is not a context, it is that of
// [Goroutine], or else context.Background.
func Context() context.Context {
	if ctx, ok := exeunt.GetSafe().(context.Context); ok {
		return ctx
	}
	if s := ofGoroutine.Get(); s != nil {
		return s.ctx
	}
	return context.Background()
}

// Span returns the running goroutine's span. Outside of all spans it is one that does nothing.
func Span() trace.Span { return trace.SpanFromContext(Context()) }

// Do calls fn in a new span, which is a child of the running goroutine's span. The span ends when fn
// returns, panics or calls runtime.Goexit.
//
// Where goroutine exits cannot be redirected (see [exeunt.Install]), the span has no parent and no
// children.
func Do(tracer trace.Tracer, name string, fn func(), options ...trace.SpanStartOption) {
	ctx, span := tracer.Start(Context(), name, options...)
	defer span.End()
	if exeunt.Install() != nil {
		fn()
		return
	}
	exeunt.With(ctx, fn)
}

// Goroutine begins a span that ends when the running goroutine ends, in whichever way. Its attribute
// goroutine.end says how (see [exeunt.Ending]); at [os.Exit] its status is an error. Call it outside
// of [Do] and [exeunt.With], or its span has no children until they have returned. It panics like
// [exeunt.AtExit].
func Goroutine(tracer trace.Tracer, name string, options ...trace.SpanStartOption) {
	if err := exeunt.Install(); err != nil {
		panic(err)
	}
	ctx, span := tracer.Start(Context(), name, options...)
	exeunt.AtExit(func() {
		ending := exeunt.Ending()
		span.SetAttributes(attribute.String("goroutine.end", ending.String()))
		if ending == exeunt.ProcessExit {
			span.SetStatus(codes.Error, "os.Exit")
		}
		span.End()
	})
	ofGoroutine.Set(&whole{ctx})
}

// Handler gives the context of each request to the goroutine that serves it, until next returns.
// Instrumentation that puts a span into the context, such as otelhttp, has to be outside of it.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if exeunt.Install() != nil {
			next.ServeHTTP(w, r)
			return
		}
		exeunt.With(r.Context(), func() { next.ServeHTTP(w, r) })
	})
}
