package layers

// Arrows gives the references between the package's files.
func (p *Package) Arrows() (Graph, error) {
	graph := Graph{}
	p.addSource(graph)
	return graph, p.addAssembly(graph)
}
