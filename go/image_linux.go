//go:build linux && (amd64 || arm64)

package exeunt

import (
	"reflect"
	"runtime"
	"unsafe"

	"exeunt.invalid/exeunt/internal/site"
)

var image = site.Image{
	Arch: runtime.GOARCH,
	Func: func(pc uintptr) (string, uintptr) {
		f := runtime.FuncForPC(pc)
		if f == nil {
			return "", 0
		}
		return f.Name(), f.Entry()
	},
	Bytes: func(at uintptr, n int) []byte {
		// Do not read past the page: the next one may be unmapped.
		if left := 0x1000 - int(at&0xfff); n > left {
			if f := runtime.FuncForPC(at + uintptr(left)); f == nil {
				n = left
			}
		}
		return unsafe.Slice(*(**byte)(unsafe.Pointer(&at)), n)
	},
}

func entryOf(pc uintptr) uintptr {
	_, entry := image.Func(pc)
	return entry
}

// sameRuntime refuses where another copy of this package has redirected calls: both would use the
// spare words of stacks.
func sameRuntime(goexit uintptr) error {
	_, err := image.One(site.Call, goexit, "runtime.goexit1")
	return err
}

var packagePath = reflect.TypeOf(record{}).PkgPath()
