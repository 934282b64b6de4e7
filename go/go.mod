// The module's path is here and in the import lines; `./rename-module NEW` changes all of them.
// RFC 6761 reserves .invalid, so nobody can own this path by accident: it resolves nowhere, and no
// proxy can serve it.
module exeunt.invalid/exeunt

go 1.22
