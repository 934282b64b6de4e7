// Command requestid is a web server whose log lines name the request that they belong to. That
// includes lines of functions that get neither the request nor a context, and of goroutines that
// they start.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"sort"
	"strings"
	"sync"

	"exeunt.invalid/exeunt"
)

type requestID string

// prefixed writes the request's ID before each line.
type prefixed struct{ out io.Writer }

func (p prefixed) Write(line []byte) (int, error) {
	if id, ok := exeunt.GetSafe().(requestID); ok {
		if _, err := fmt.Fprintf(p.out, "[%s] ", id); err != nil {
			return 0, err
		}
	}
	return p.out.Write(line)
}

// withID is all that a server has to add.
func withID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		exeunt.With(requestID(r.Header.Get("X-Request-Id")), func() { next.ServeHTTP(w, r) })
	})
}

// load gets neither the request nor a context.
func load(page string) string {
	log.Printf("loading %s", page)
	var wg sync.WaitGroup
	wg.Add(1)
	exeunt.Go(func() { // a go statement would not pass on the context
		defer wg.Done()
		log.Printf("looking %s up in the cache", page)
	})
	wg.Wait()
	return "page " + page
}

func run(out io.Writer) error {
	log.SetFlags(0)
	log.SetOutput(prefixed{out})
	server := httptest.NewServer(withID(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, load(r.URL.Path))
	})))
	defer server.Close()

	var wg sync.WaitGroup
	errs := make(chan error, 2)
	for _, id := range []string{"a", "b"} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			request, err := http.NewRequest("GET", server.URL+"/page-"+id, nil)
			if err != nil {
				errs <- err
				return
			}
			request.Header.Set("X-Request-Id", id)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				errs <- err
				return
			}
			errs <- response.Body.Close()
		}()
	}
	wg.Wait()
	log.Print("outside of any request")
	for range 2 {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

func main() {
	var lines strings.Builder
	if err := run(&lines); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	all := strings.Split(strings.TrimSpace(lines.String()), "\n")
	sort.Strings(all) // the two requests ran at the same time
	fmt.Println(strings.Join(all, "\n"))
}
