// Apart from the module itself, so that nobody who uses that downloads its rivals.
module exeunt.invalid/exeunt/bench

go 1.22

require (
	exeunt.invalid/exeunt v0.0.0
	github.com/jtolds/gls v4.20.0+incompatible
	github.com/timandy/routine v1.1.6
)

require github.com/gopherjs/gopherjs v1.21.0 // indirect

replace exeunt.invalid/exeunt => ../
