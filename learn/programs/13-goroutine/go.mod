module goroutine

go 1.22
