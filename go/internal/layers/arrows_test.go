package layers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// arrows reads a package of these files, as linux/amd64 has it.
func arrows(t *testing.T, files map[string]string) Graph {
	t.Helper()
	folder := t.TempDir()
	for name, content := range files {
		if strings.HasSuffix(name, ".go") {
			content = "package p\n" + content
		}
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pkg, err := NewLoader(configs[0], "p", folder).Load("")
	if err != nil {
		t.Fatal(err)
	}
	graph, err := pkg.Arrows()
	if err != nil {
		t.Fatal(err)
	}
	return graph
}

// want demands that the graph has these arrows, each written as "from -> to: names", and no other.
func want(t *testing.T, graph Graph, arrows ...string) {
	t.Helper()
	var got []string
	for _, from := range sorted(graph) {
		for _, to := range sorted(graph[from]) {
			got = append(got, from+" -> "+to+": "+names(graph[from][to]))
		}
	}
	if got, want := strings.Join(got, "\n"), strings.Join(arrows, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestFunctionsVariablesConstantsAndTypesOfOtherFilesAreArrows(t *testing.T) {
	want(t, arrows(t, map[string]string{
		"low.go":  "type T struct{}\nvar v = c\nconst c = 1\nfunc f() {}\n",
		"high.go": "var x T\nfunc g() {\n\tf()\n\tv = c\n}\n",
	}), "high.go -> low.go: T (line 2), f (line 4), c (line 5), v (line 5)")
}

func TestMethodsAndFieldsAreArrowsToTheirFile(t *testing.T) {
	want(t, arrows(t, map[string]string{
		"a.go": "type T struct{ inner }\nfunc make() *T { return nil }\n",
		"b.go": "type inner struct{ field int }\n",
		"c.go": "func (t *T) method() {}\n",
		"d.go": "func g() {\n\tmake().method()\n\tmake().field = 1\n}\n",
	}),
		"a.go -> b.go: inner (line 2)",
		"c.go -> a.go: T (line 2)",
		"d.go -> a.go: make (line 3), inner (line 4)",
		"d.go -> b.go: field (line 4)",
		"d.go -> c.go: T.method (line 3)")
}

func TestInstancesOfGenericTypesAndFunctionsLeadToWhatIsDeclared(t *testing.T) {
	want(t, arrows(t, map[string]string{
		"a.go": "type T[V any] struct{ field V }\n",
		"b.go": "func (t *T[V]) method() {}\n",
		"c.go": "func f[V any](V) {}\n",
		"d.go": "func g(t *T[int]) {\n\tt.method()\n\tt.field = 1\n\tf(2)\n}\n",
	}),
		"b.go -> a.go: T (line 2)",
		"d.go -> a.go: T (line 2), field (line 4)",
		"d.go -> b.go: T.method (line 3)",
		"d.go -> c.go: f (line 5)")
}

func TestAnInterfaceAndAFunctionVariableTurnTheArrow(t *testing.T) {
	want(t, arrows(t, map[string]string{
		"low.go":  "type ends interface{ end() }\nvar hook func()\nfunc drain(e ends) {\n\te.end()\n\thook()\n}\n",
		"high.go": "type record struct{}\nfunc (r *record) end() {}\nfunc init() {\n\thook = func() { drain(&record{}) }\n}\n",
	}), "high.go -> low.go: drain (line 5), hook (line 5)")
}

func TestAssemblyIsTheBodyOfWhatGoDeclares(t *testing.T) {
	want(t, arrows(t, map[string]string{
		"low.go":    "func enter()\n",
		"high.go":   "var state int\nfunc called() {}\ntype record struct{ owner int }\nconst most = 1\n",
		"a.s":       "#define STATE \\\n\tMOVQ ·state(SB), AX // ·comment(SB)\nTEXT ·enter(SB), 0, $0-0\n\tSTATE\n\tCALL ·apart(SB)\n",
		"b.s":       "TEXT ·apart(SB), 0, $0-0\n\tCALL ·called(SB)\n\tMOVQ record_owner(AX), BX\n\tMOVQ $const_most, CX\n",
		"b_arm64.s": "TEXT ·other(SB), 0, $0-0\n\tCALL ·enter(SB)\n",
	}),
		"b.s -> high.go: ·called in b.s (line 2), record_owner in b.s (line 3), const_most in b.s (line 4)",
		"low.go -> b.s: ·apart in a.s (line 5)",
		"low.go -> high.go: ·state in a.s (line 2)")
}

func TestACircleOfThreeFilesIsNamedWithAllItsArrows(t *testing.T) {
	graph := arrows(t, map[string]string{
		"a.go":     "func a() { b() }\n",
		"b.go":     "func b() { c() }\n",
		"c.go":     "func c() { a() }\n",
		"apart.go": "func d() { a() }\n",
	})
	circles := graph.Circles()
	if len(circles) != 1 {
		t.Fatal(circles)
	}
	text := "circle of 3 files: a.go b.go c.go\n" +
		"    a.go -> b.go: b (line 2)\n    b.go -> c.go: c (line 2)\n    c.go -> a.go: a (line 2)\n"
	if got := graph.Describe(circles[0]); got != text {
		t.Errorf("got\n%s\nwant\n%s", got, text)
	}
}

func TestFilesThatStandOnEachOtherInOneDirectionAreNoCircle(t *testing.T) {
	graph := arrows(t, map[string]string{"a.go": "func a() {}\n", "b.go": "func b() { a() }\n", "c.go": "func c() { a(); b() }\n"})
	if circles := graph.Circles(); len(circles) != 0 {
		t.Error(circles)
	}
}
