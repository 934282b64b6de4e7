// The foot of a goroutine. go run . (linux/amd64)
package main

import (
	"fmt"
	"runtime"
	"unsafe"
)

// The frame pointer of the calling function leads to its frame record: the caller's frame pointer,
// then the return address. Four spare words of the runtime follow the foot.
func framePointer() *[6]uintptr // frame_amd64.s

//go:noinline
func grow(n int) int { // deep enough that the runtime moves the stack
	var room [512]byte
	room[n%512] = 1
	if n == 0 {
		return int(room[0])
	}
	return grow(n-1) + int(room[1])
}

var done = make(chan bool)

func look() {
	callers := make([]uintptr, 16)
	callers = callers[:runtime.Callers(0, callers)]
	for _, pc := range callers {
		fmt.Println("  return into", runtime.FuncForPC(pc-1).Name())
	}
	frame := framePointer()
	before := uintptr(unsafe.Pointer(frame))
	foot := frame[1]
	goexit := runtime.FuncForPC(foot)
	fmt.Printf("the foot holds %s + %d\n", goexit.Name(), foot-goexit.Entry())

	code := (*[16]byte)(unsafe.Pointer(goexit.Entry())) // of runtime.goexit
	distance := *(*int32)(unsafe.Pointer(&code[2]))
	target := goexit.Entry() + 6 + uintptr(distance) // a call's distance counts from its end
	name := runtime.FuncForPC(target).Name()
	fmt.Printf("its code: %#x, then %#x (call %s), then %#x\n", code[0], code[1], name, code[6])

	grow(1000)
	frame = framePointer()
	after := uintptr(unsafe.Pointer(frame))
	fmt.Println("after a deep call the stack is elsewhere:", before != after)
	fmt.Println("and the foot holds the same address:", frame[1] == foot)
	done <- true
}

func main() {
	go look()
	<-done
}
