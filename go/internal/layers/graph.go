package layers

import (
	"fmt"
	"sort"
	"strings"
)

// A Use is one mention of an identifier that another file declares.
type Use struct {
	Name string // the identifier; a method's or field's has its type before it, if that is known
	Line int    // of the mention
}

// A Graph has the arrows between files: the uses in the first file of what the second declares.
type Graph map[string]map[string][]Use

// Add notes that from mentions, on this line, a name that to declares. The first line of each name
// stays.
func (g Graph) Add(from, to, name string, line int) {
	if from == to {
		return
	}
	if g[from] == nil {
		g[from] = map[string][]Use{}
	}
	for i, use := range g[from][to] {
		if use.Name == name {
			g[from][to][i].Line = min(use.Line, line)
			return
		}
	}
	g[from][to] = append(g[from][to], Use{name, line})
}

// Merge adds all arrows of other: those of another platform.
func (g Graph) Merge(other Graph) {
	for from, targets := range other {
		for to, uses := range targets {
			for _, use := range uses {
				g.Add(from, to, use.Name, use.Line)
			}
		}
	}
}

// Circles gives the strongly connected components of more than one file, each sorted.
func (g Graph) Circles() (circles [][]string) {
	// Two files are in one circle if each reaches the other. Packages have few files.
	reach := map[string]map[string]bool{}
	for from := range g {
		reached := map[string]bool{}
		queue := []string{from}
		for len(queue) > 0 {
			file := queue[0]
			queue = queue[1:]
			for to := range g[file] {
				if !reached[to] {
					reached[to] = true
					queue = append(queue, to)
				}
			}
		}
		reach[from] = reached
	}
	done := map[string]bool{}
	for _, file := range sorted(g) {
		if done[file] || !reach[file][file] {
			continue
		}
		circle := []string{}
		for _, other := range sorted(g) {
			if reach[file][other] && reach[other][file] {
				circle = append(circle, other)
				done[other] = true
			}
		}
		circles = append(circles, circle)
	}
	return circles
}

// Describe says which identifiers make the arrows of a circle, one arrow a line.
func (g Graph) Describe(circle []string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "circle of %d files: %s\n", len(circle), strings.Join(circle, " "))
	for _, from := range circle {
		for _, to := range circle {
			if uses := g[from][to]; len(uses) > 0 {
				fmt.Fprintf(&text, "    %s -> %s: %s\n", from, to, names(uses))
			}
		}
	}
	return text.String()
}

// names lists uses with their lines, in the order of the lines.
func names(uses []Use) string {
	uses = append([]Use(nil), uses...)
	sort.Slice(uses, func(i, j int) bool {
		if uses[i].Line != uses[j].Line {
			return uses[i].Line < uses[j].Line
		}
		return uses[i].Name < uses[j].Name
	})
	var words []string
	for _, use := range uses {
		words = append(words, fmt.Sprintf("%s (line %d)", use.Name, use.Line))
	}
	return strings.Join(words, ", ")
}

func sorted[V any](from map[string]V) (keys []string) {
	for key := range from {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
