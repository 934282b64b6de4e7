package layers

import (
	"go/ast"
	"go/token"
	"go/types"
	"path/filepath"
)

// addSource adds the references that Go source makes.
func (p *Package) addSource(graph Graph) {
	for ident, object := range p.info.Uses {
		object = origin(object)
		if object.Pkg() != p.types || !object.Pos().IsValid() {
			continue
		}
		graph.Add(p.file(ident.Pos()), p.file(object.Pos()), describe(object), p.fset.Position(ident.Pos()).Line)
	}
	// A field that is reached through an embedded one mentions that one too, without a word for it.
	for selector, selection := range p.info.Selections {
		for _, field := range embedded(selection) {
			if field.Pkg() == p.types {
				position := selector.Sel.Pos()
				graph.Add(p.file(position), p.file(field.Pos()), describe(field), p.fset.Position(position).Line)
			}
		}
	}
}

func (p *Package) file(position token.Pos) string {
	return filepath.Base(p.fset.File(position).Name())
}

// origin is the declared object of one that a generic type's or function's instance has.
func origin(object types.Object) types.Object {
	switch object := object.(type) {
	case *types.Func:
		return object.Origin()
	case *types.Var:
		return object.Origin()
	}
	return object
}

// describe gives a method the name of its receiver's type.
func describe(object types.Object) string {
	function, isFunction := object.(*types.Func)
	if !isFunction {
		return object.Name()
	}
	receiver := function.Type().(*types.Signature).Recv()
	if receiver == nil {
		return object.Name()
	}
	of := receiver.Type()
	if pointer, isPointer := of.(*types.Pointer); isPointer {
		of = pointer.Elem()
	}
	if named, isNamed := of.(*types.Named); isNamed {
		return named.Obj().Name() + "." + object.Name()
	}
	return object.Name()
}

// embedded gives the embedded fields on the way to what is selected.
func embedded(selection *types.Selection) (fields []*types.Var) {
	at := selection.Recv()
	index := selection.Index()
	for _, i := range index[:len(index)-1] {
		if pointer, isPointer := at.Underlying().(*types.Pointer); isPointer {
			at = pointer.Elem()
		}
		structure, isStruct := at.Underlying().(*types.Struct)
		if !isStruct {
			break
		}
		field := structure.Field(i).Origin()
		fields = append(fields, field)
		at = structure.Field(i).Type()
	}
	return fields
}

// declarations has the file of everything that the package declares on its outermost level, methods
// apart.
func (p *Package) declarations() map[string]string {
	found := map[string]string{}
	for _, file := range p.files {
		name := p.file(file.Pos())
		for _, declaration := range file.Decls {
			switch declaration := declaration.(type) {
			case *ast.FuncDecl:
				if declaration.Recv == nil {
					found[declaration.Name.Name] = name
				}
			case *ast.GenDecl:
				for _, spec := range declaration.Specs {
					switch spec := spec.(type) {
					case *ast.ValueSpec:
						for _, ident := range spec.Names {
							found[ident.Name] = name
						}
					case *ast.TypeSpec:
						found[spec.Name.Name] = name
					}
				}
			}
		}
	}
	return found
}
