package layers

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Together they have every file of the module, or the test fails.
var configs = []Config{
	{OS: "linux", Arch: "amd64"},
	{OS: "linux", Arch: "arm64"},
	{OS: "darwin", Arch: "arm64"},
	{OS: "linux", Arch: "riscv64"},
	{OS: "linux", Arch: "ppc64le"},
	{OS: "linux", Arch: "amd64", Before: "go1.23"},
	{OS: "linux", Arch: "amd64", Before: "go1.23", Tags: []string{"goexperiment.rangefunc", "msan"}},
}

const root = "../.."

func module(t *testing.T) string {
	content, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	return string(regexp.MustCompile(`(?m)^module (\S+)`).FindSubmatch(content)[1])
}

// folders has the folders with Go files, but not those of other modules.
func folders(t *testing.T) (found []string) {
	seen := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if entry.Name() == "testdata" { // no package of the module
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != root {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(path, ".go") {
			folder, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			if !seen[folder] {
				seen[folder] = true
				found = append(found, folder)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestNoPackageHasACircleOfFiles(t *testing.T) {
	graphs := map[string]Graph{}
	names := map[string]map[string]bool{}
	for _, config := range configs {
		loader := NewLoader(config, module(t), root)
		for _, folder := range folders(t) {
			pkg, err := loader.Load(folder)
			if err != nil {
				t.Fatal(err)
			}
			graph, err := pkg.Arrows()
			if err != nil {
				t.Fatal(err)
			}
			if graphs[folder] == nil {
				graphs[folder], names[folder] = Graph{}, map[string]bool{}
			}
			graphs[folder].Merge(graph)
			for _, name := range pkg.Names() {
				names[folder][name] = true
			}
		}
	}
	for _, folder := range sorted(graphs) {
		graph := graphs[folder]
		// Those of all platforms together: a reader reads all of them.
		for _, circle := range graph.Circles() {
			t.Errorf("%s: %s", filepath.Join("go", folder), graph.Describe(circle))
		}
		// A file that no platform has would be a file that nobody checks.
		for _, pattern := range []string{"*.go", "*.s"} {
			paths, _ := filepath.Glob(filepath.Join(root, folder, pattern))
			for _, path := range paths {
				if name := filepath.Base(path); !strings.HasSuffix(name, "_test.go") && !names[folder][name] && !isForNewerGo(t, path) {
					t.Errorf("%s belongs to no platform of this test: %v", path, configs)
				}
			}
		}
	}
}

// isForNewerGo says whether a file has a release tag that this Go does not set.
func isForNewerGo(t *testing.T, path string) bool {
	for _, config := range configs {
		context := config.context()
		for minor := 1; minor < 100; minor++ {
			context.ReleaseTags = append(context.ReleaseTags, fmt.Sprintf("go1.%d", minor))
		}
		matches, err := context.MatchFile(filepath.Dir(path), filepath.Base(path))
		if err != nil {
			t.Fatal(err)
		}
		if matches {
			return true
		}
	}
	return false
}
