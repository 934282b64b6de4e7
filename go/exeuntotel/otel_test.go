//go:build linux && (amd64 || arm64)

package exeuntotel_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"sort"
	"strings"
	"testing"

	"exeunt.invalid/exeunt"
	"exeunt.invalid/exeunt/exeuntotel"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// record runs a function with a tracer of the real SDK, and returns the spans that have ended: each
// as outer>inner, with what was set.
func record(fn func(provider *trace.TracerProvider)) (spans []string) {
	recorder := tracetest.NewSpanRecorder()
	fn(trace.NewTracerProvider(trace.WithSpanProcessor(recorder)))
	paths := map[string]trace.ReadOnlySpan{}
	for _, span := range recorder.Ended() {
		paths[span.SpanContext().SpanID().String()] = span
	}
	for _, span := range recorder.Ended() {
		path := span.Name()
		for outer := span; ; {
			parent, there := paths[outer.Parent().SpanID().String()]
			if !there {
				break
			}
			path = parent.Name() + ">" + path
			outer = parent
		}
		for _, a := range span.Attributes() {
			path += fmt.Sprintf(" %s=%s", a.Key, a.Value.Emit())
		}
		for _, e := range span.Events() {
			path += " " + e.Name
		}
		spans = append(spans, path)
	}
	sort.Strings(spans)
	return spans
}

func Example() {
	spans := record(func(provider *trace.TracerProvider) {
		tracer := provider.Tracer("example")
		query := func() { // takes no context
			exeuntotel.Do(tracer, "query", func() {
				exeuntotel.Span().AddEvent("cache missed")
			})
		}
		instrumentation := func(next http.Handler) http.Handler { // as otelhttp.NewHandler
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, span := tracer.Start(r.Context(), "GET "+r.URL.Path)
				defer span.End()
				next.ServeHTTP(w, r.WithContext(ctx))
			})
		}
		handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { query() })
		server := httptest.NewServer(instrumentation(exeuntotel.Handler(handler)))
		defer server.Close()
		response, err := http.Get(server.URL + "/users")
		if err != nil {
			fmt.Println(err)
			return
		}
		response.Body.Close()
	})
	fmt.Println(strings.Join(spans, "\n"))
	// Output:
	// GET /users
	// GET /users>query cache missed
}

func TestSpansFollowWorkToOtherGoroutines(t *testing.T) {
	spans := record(func(provider *trace.TracerProvider) {
		tracer := provider.Tracer("test")
		jobs, done := make(chan func()), make(chan struct{})
		go func() {
			exeunt.AtExit(func() { close(done) })
			exeuntotel.Goroutine(tracer, "worker")
			for job := range jobs {
				job()
				done <- struct{}{}
			}
			runtime.Goexit()
		}()
		step := func(name string) func() { return func() { exeuntotel.Do(tracer, name, func() {}) } }
		exeuntotel.Do(tracer, "request", func() {
			jobs <- exeunt.Wrap(step("wrapped"))
			<-done
			jobs <- step("plain")
			<-done
			started := make(chan struct{})
			exeunt.Go(func() {
				defer close(started)
				step("started")()
				exeunt.With("not a context", step("elsewhere"))
			})
			<-started
			exeunt.With(context.Background(), step("apart"))
			func() {
				defer func() { _ = recover() }()
				exeuntotel.Do(tracer, "panics", func() { panic("x") })
			}()
			step("after it")()
		})
		close(jobs)
		<-done
		step("outside")()
	})
	want := []string{
		"apart", "elsewhere", "outside", "request", "request>after it", "request>panics exception", "request>started",
		"request>wrapped", "worker goroutine.end=exited", "worker>plain",
	}
	if strings.Join(spans, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwanted\n%s", strings.Join(spans, "\n"), strings.Join(want, "\n"))
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("EXEUNTOTEL_TEST_EXIT") != "" {
		provider := trace.NewTracerProvider(trace.WithSyncer(printer{}))
		exeuntotel.Goroutine(provider.Tracer("test"), "whole")
		os.Exit(3)
	}
	os.Exit(m.Run())
}

type printer struct{}

func (printer) ExportSpans(_ context.Context, spans []trace.ReadOnlySpan) error {
	for _, span := range spans {
		fmt.Println(span.Name(), span.Attributes()[0].Value.Emit(), span.Status().Code, span.Status().Description)
	}
	return nil
}
func (printer) Shutdown(context.Context) error { return nil }

func TestAGoroutinesSpanIsExportedAtOsExit(t *testing.T) {
	words := append(strings.Fields(os.Getenv("EXEUNT_TEST_EXEC")), os.Args[0])
	command := exec.Command(words[0], words[1:]...)
	command.Env = append(os.Environ(), "EXEUNTOTEL_TEST_EXIT=1")
	out, _ := command.CombinedOutput()
	if code := command.ProcessState.ExitCode(); code != 3 || string(out) != "whole process exit Error os.Exit\n" {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}
