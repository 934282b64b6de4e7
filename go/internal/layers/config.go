package layers

import (
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"strings"
)

// A Config is a platform with the build tags that select files.
type Config struct {
	OS, Arch string
	Tags     []string // more tags that are set
	Before   string   // a release tag: it and those after it are not set
}

// String is what a failure calls this configuration.
func (c Config) String() string {
	name := c.OS + "/" + c.Arch
	if c.Before != "" {
		name += ", before " + c.Before
	}
	return strings.Join(append([]string{name}, c.Tags...), ", ")
}

func (c Config) context() *build.Context {
	context := build.Default
	context.GOOS, context.GOARCH = c.OS, c.Arch
	context.CgoEnabled = true
	context.BuildTags = c.Tags
	for i, tag := range context.ReleaseTags {
		if tag == c.Before {
			context.ReleaseTags = context.ReleaseTags[:i]
			break
		}
	}
	return &context
}

// A Package has the files of one folder that belong to it on one platform, without tests.
type Package struct {
	files    []*ast.File
	assembly []string // paths
	fset     *token.FileSet
	info     *types.Info
	types    *types.Package
}

// A Loader reads the packages of one module for one platform.
type Loader struct {
	config   Config
	module   string // its path
	folder   string // its root
	fset     *token.FileSet
	standard types.ImporterFrom
	loaded   map[string]*Package
}

// NewLoader loads packages of the module in folder.
func NewLoader(config Config, module, folder string) *Loader {
	system := config.OS + "/" + config.Arch
	if standard[system] == nil {
		standard[system] = importer.ForCompiler(files, "source", nil).(types.ImporterFrom)
	}
	return &Loader{config, module, folder, files, standard[system], map[string]*Package{}}
}

// Reading the standard library takes seconds, so that it is done once for each system.
var (
	files    = token.NewFileSet()
	standard = map[string]types.ImporterFrom{}
)

// Import makes a Loader a [types.Importer].
func (l *Loader) Import(path string) (*types.Package, error) {
	if path == l.module || strings.HasPrefix(path, l.module+"/") {
		pkg, err := l.Load(strings.TrimPrefix(strings.TrimPrefix(path, l.module), "/"))
		if err != nil {
			return nil, err
		}
		return pkg.types, nil
	}
	// The standard library is read for the same platform. Its importer has build.Default as its
	// only setting.
	saved := build.Default
	defer func() { build.Default = saved }()
	build.Default.GOOS, build.Default.GOARCH, build.Default.CgoEnabled = l.config.OS, l.config.Arch, false
	return l.standard.ImportFrom(path, l.folder, 0)
}

// Load gives the package in this folder below the module's root. A type error is an error: a name
// without a meaning would be an arrow that nobody sees.
func (l *Loader) Load(folder string) (*Package, error) {
	if pkg := l.loaded[folder]; pkg != nil {
		return pkg, nil
	}
	path := filepath.Join(l.folder, folder)
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	pkg := &Package{fset: l.fset, info: &types.Info{
		Uses:       map[*ast.Ident]types.Object{},
		Defs:       map[*ast.Ident]types.Object{},
		Selections: map[*ast.SelectorExpr]*types.Selection{},
	}}
	context := l.config.context()
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() || strings.HasSuffix(name, "_test.go") {
			continue
		}
		if matches, err := context.MatchFile(path, name); err != nil || !matches {
			if err != nil {
				return nil, err
			}
			continue
		}
		switch filepath.Ext(name) {
		case ".go":
			file, err := parser.ParseFile(l.fset, filepath.Join(path, name), nil, parser.ParseComments)
			if err != nil {
				return nil, err
			}
			pkg.files = append(pkg.files, file)
		case ".s":
			pkg.assembly = append(pkg.assembly, filepath.Join(path, name))
		}
	}
	var faults []error
	check := types.Config{
		Importer:    l,
		FakeImportC: true,
		Sizes:       types.SizesFor("gc", l.config.Arch),
		Error:       func(err error) { faults = append(faults, err) },
	}
	pkg.types, _ = check.Check(folder, l.fset, pkg.files, pkg.info)
	if len(faults) > 0 {
		return nil, fmt.Errorf("%s on %s: %w", path, l.config, errors.Join(faults...))
	}
	l.loaded[folder] = pkg
	return pkg, nil
}

// Names are the names of the package's files.
func (p *Package) Names() (names []string) {
	for _, file := range p.files {
		names = append(names, filepath.Base(p.fset.File(file.Pos()).Name()))
	}
	for _, path := range p.assembly {
		names = append(names, filepath.Base(path))
	}
	return names
}
