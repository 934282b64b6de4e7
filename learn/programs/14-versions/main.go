// The old trick: another address in a goroutine's foot. Run by ./run, on many versions of Go.
// HOW says how the address is made, and WHAT what the goroutine does then.
package main

import (
	"runtime"
	"syscall"
	"unsafe"
)

func plain()                //  hijack_amd64.s: the end of a goroutine, as go-tls wrote it
func topframe()             //  the same, with the flag TOPFRAME
func plainAddress() uintptr //  the address of its code, taken in assembly
func topframeAddress() uintptr
func framePointer() *[6]uintptr // of the calling function: its caller's, then the return address

var done = make(chan string)

func ended() { // called where the goroutine has returned to
	done <- "ok"
	select {}
}

// In Go, the value of a function leads to a word that holds an address.
func addressOf(f func()) uintptr { return **(**uintptr)(unsafe.Pointer(&f)) }

//go:noinline
func grow(n int) int { // deep enough that the stack is moved to a larger one
	var room [512]byte
	room[n%512] = 1
	if n == 0 {
		return int(room[0])
	}
	return grow(n-1) + int(room[1])
}

func main() {
	go func() {
		frame := framePointer()
		goexit := frame[1]
		if runtime.FuncForPC(goexit).Name() != "runtime.goexit" {
			done <- "no foot"
		}
		switch how, _ := syscall.Getenv("HOW"); how {
		case "wrapper": // the address taken in Go, plus 1, as go-tls did
			frame[1] = addressOf(plain) + 1
		case "code":
			frame[1] = plainAddress() + 1
		case "topframe":
			frame[1] = topframeAddress() + 1
		}
		switch what, _ := syscall.Getenv("WHAT"); what {
		case "grow":
			frame[2], frame[3] = 0, 0 // the two words above the foot, as a new stack has them
			grow(1000)
			done <- "ok"
		case "reused":
			frame[2], frame[3] = 0x1111, 0x2222 // as another goroutine has left them
			grow(1000)
			done <- "ok"
		case "Goexit":
			go func() { // is the end seen? Goexit calls the runtime's code, and returns nowhere
				for i := 0; i < 1000; i++ {
					runtime.Gosched()
				}
				done <- "missed"
			}()
			runtime.Goexit()
		}
	}()
	println(<-done)
}
