package layers

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	text   = regexp.MustCompile(`^(?:TEXT|DATA|GLOBL)\s+·(\w+)`)
	define = regexp.MustCompile(`^#define\s+(\w+)`)
	symbol = regexp.MustCompile(`·(\w+)`)
	word   = regexp.MustCompile(`\b[A-Za-z]\w*\b`)
)

// A block is what one function of assembly, or one macro, mentions.
type block struct {
	file     string
	mentions []Use
}

// addAssembly adds the references that assembly makes. A function of assembly is the body of the
// function without a body that Go source declares, so what it mentions counts for the file of that
// declaration; one that no Go file declares counts for the file with the assembly. What a macro
// mentions counts for each function that uses the macro.
func (p *Package) addAssembly(graph Graph) error {
	functions, macros := map[string]*block{}, map[string]*block{}
	for _, path := range p.assembly {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		readAssembly(filepath.Base(path), string(content), functions, macros)
	}
	all := p.declarations()
	for name, function := range functions {
		if _, isDeclared := all[name]; !isDeclared {
			all[name] = function.file
		}
	}
	for name, function := range functions {
		from := all[name]
		uses := append([]Use(nil), function.mentions...)
		for done, expanded := map[string]bool{}, 0; expanded < len(uses); expanded++ {
			use := uses[expanded]
			if macro := macros[use.Name]; macro != nil {
				if !done[use.Name] {
					done[use.Name] = true
					uses = append(uses, macro.mentions...)
				}
				continue
			}
			name := strings.TrimPrefix(use.Name, "·")
			if to, isDeclared := all[name]; isDeclared && name != use.Name {
				graph.Add(from, to, "·"+name+" in "+function.file, use.Line)
			} else if to, name := header(use.Name, all); name != "" {
				graph.Add(from, to, use.Name+" in "+function.file, use.Line)
			}
		}
	}
	return nil
}

// header resolves a name of go_asm.h: const_NAME, TYPE__size, TYPE_FIELD.
func header(name string, all map[string]string) (file, declaration string) {
	candidates := []string{}
	if constant, found := strings.CutPrefix(name, "const_"); found {
		candidates = append(candidates, constant)
	}
	for i, c := range name {
		if c == '_' {
			candidates = append(candidates, name[:i])
		}
	}
	for _, candidate := range candidates {
		if found, isDeclared := all[candidate]; isDeclared {
			return found, candidate
		}
	}
	return "", ""
}

// readAssembly collects the symbols (with ·) and words that each function and macro has, without
// comments.
func readAssembly(file, content string, functions, macros map[string]*block) {
	var current, macro *block
	for i, line := range strings.Split(uncommented(content), "\n") {
		if match := define.FindStringSubmatch(line); match != nil {
			macro = &block{file: file}
			macros[match[1]] = macro
			line = line[len(match[0]):]
		} else if match := text.FindStringSubmatch(line); match != nil {
			if functions[match[1]] == nil {
				functions[match[1]] = &block{file: file}
			}
			current = functions[match[1]]
			line = line[len(match[0]):]
		}
		target := current
		if macro != nil {
			target = macro
		}
		if target != nil {
			for _, match := range symbol.FindAllString(line, -1) {
				target.mentions = append(target.mentions, Use{match, i + 1})
			}
			for _, match := range word.FindAllString(line, -1) {
				target.mentions = append(target.mentions, Use{match, i + 1})
			}
		}
		if !strings.HasSuffix(strings.TrimRight(line, " \t"), `\`) {
			macro = nil
		}
	}
}

// uncommented keeps the lines' numbers. A comment between the lines of a macro leaves its
// backslash.
func uncommented(content string) string {
	content = regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAllStringFunc(content, func(comment string) string {
		return strings.Repeat("\n", strings.Count(comment, "\n"))
	})
	return regexp.MustCompile(`//[^\n]*`).ReplaceAllString(content, "")
}
