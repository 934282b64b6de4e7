module versions

go 1.16
