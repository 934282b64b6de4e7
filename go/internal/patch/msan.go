//go:build msan && linux && (amd64 || arm64)

package patch

import _ "exeunt.invalid/exeunt/internal/patch/object" // the engine, which is then not linked otherwise
