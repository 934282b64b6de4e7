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

const reach = 64 << 10

// near finds a function of the same source file as one at this address. It returns 0 if there is none
// within reach.
func near(address uintptr, function string) uintptr {
	const step = 16
	for distance := uintptr(0); distance < reach; distance += step {
		for _, pc := range []uintptr{address - distance, address + distance} {
			if name, entry := image.Func(pc); name == function {
				return entry
			}
		}
	}
	return 0
}

var packagePath = reflect.TypeOf(record{}).PkgPath()
