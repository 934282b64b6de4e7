//go:build linux || amd64 || arm64

package exeuntslog_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/slogtest"

	"exeunt.invalid/exeunt"
	"exeunt.invalid/exeunt/exeuntslog"
)

var (
	user    = exeunt.NewInheritable[string](nil).Named("user")
	attempt = exeunt.NewLocal[int]().Named("attempt")
)

// library takes no context and no logger.
func library() { slog.Info("looking it up", "in", "cache") }

func Example() {
	text := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime})
	before := slog.Default()
	slog.SetDefault(slog.New(exeuntslog.New(text, exeuntslog.Local(user), exeuntslog.Local(attempt))))
	defer slog.SetDefault(before)

	library()
	user.Set("alice")
	attempt.Set(2)
	library()
	done := make(chan struct{})
	exeunt.Go(func() {
		defer close(done)
		library() // user is inheritable, attempt is not
	})
	<-done
	exeunt.Reset()
	// Output:
	// level=INFO msg="looking it up" in=cache
	// level=INFO msg="looking it up" in=cache user=alice attempt=2
	// level=INFO msg="looking it up" in=cache user=alice
}

func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		return slog.Attr{}
	}
	return a
}

func TestValuesAreOutsideOfGroups(t *testing.T) {
	defer exeunt.Reset()
	var out bytes.Buffer
	json := slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: withoutTime})
	log := slog.New(exeuntslog.New(json, exeuntslog.Local(user))).With("a", 1)
	inner := log.WithGroup("g").With("b", 2).WithGroup("h")
	other := inner.With("c", 3) // must not share what it appends with the next line's
	_ = inner.With("d", 4)
	user.Set("bob")
	other.Info("m", "e", 5)
	user.Set("eve")
	log.Info("m", "e", 5)
	user.Del()
	other.Info("m", "e", 5)
	want := `{"level":"INFO","msg":"m","a":1,"user":"bob","g":{"b":2,"h":{"c":3,"e":5}}}` + "\n" +
		`{"level":"INFO","msg":"m","a":1,"e":5,"user":"eve"}` + "\n" +
		`{"level":"INFO","msg":"m","a":1,"g":{"b":2,"h":{"c":3,"e":5}}}` + "\n"
	if out.String() != want {
		t.Errorf("got\n%swanted\n%s", out.String(), want)
	}
}

// The standard library's own test of handlers, with and without a value.
func TestItIsAHandlerAsSlogWantsIt(t *testing.T) {
	defer exeunt.Reset()
	for _, value := range []string{"", "alice"} {
		if value != "" {
			user.Set(value)
		}
		var out bytes.Buffer
		h := exeuntslog.New(slog.NewJSONHandler(&out, nil), exeuntslog.Local(user))
		err := slogtest.TestHandler(h, func() (results []map[string]any) {
			for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
				var m map[string]any
				if err := json.Unmarshal([]byte(line), &m); err != nil {
					t.Fatal(err)
				}
				if got, _ := m["user"].(string); got != value {
					t.Errorf("user %q and not %q in %s", got, value, line)
				}
				results = append(results, m)
			}
			return results
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestALocalWithoutANameIsRefused(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it is accepted")
		}
	}()
	exeuntslog.Local(exeunt.NewLocal[int]())
}
