// Package layers finds the references between the files of one package, and the circles that they
// make.
//
// Go forbids circles between packages and allows them between files. This module doesn't: each file
// stands on files below it, so that a reader can begin at the bottom. The tests of this package
// fail on the first circle in any package of the module.
//
//	config.go    which files belong to a package on a platform, parsed and with types
//	source.go    the references that Go source makes
//	assembly.go  the references that assembly makes
//	graph.go     arrows between files, and circles of them
//	arrows.go    all of it together, for one package
//
// What counts as an arrow from file A to file B: A mentions an identifier (function, method, field,
// constant, variable, type) that B declares, or the assembly of a function that A declares does. A
// method that is called through an interface counts for the file that declares the interface, and a
// function that is called through a variable counts for the file that declares the variable: that
// is how an arrow is turned. Names that //go:linkname makes are not followed.
package layers
