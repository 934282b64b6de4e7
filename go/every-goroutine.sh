# What go/standard-library and go/other-modules share. Both source it, and set these before:
#
#     module   the folder of this module
#     work     a temporary folder
#     name     of the script, for messages
#
# An overlay makes the runtime call a file of the tests at the start of every goroutine that is not
# its own. The file registers a handler there. At the end of the process it counts.

# The file of the tests appends a line to this one: what it has counted.
export EXEUNT_TEST_INSTALLED=$work/installed

# runtime_armed SOURCE AT: prints the overlay's entries for package runtime. SOURCE is the folder
# runtime of the installed Go, AT where the go command will see it.
runtime_armed() {
    local file replace="\"$2/proc.go\":\"$work/proc.go\""
    # All on one line, so that the lines of proc.go keep their numbers.
    sed 's/^\tnewg\.startpc = fn\.fn$/&; if exeuntStart != nil \&\& !isSystemGoroutine(newg, false) { newg.sched.pc = abi.FuncPCABI0(exeuntBegin) }/' \
        "$1/proc.go" >"$work/proc.go"
    grep -q exeuntBegin "$work/proc.go" || { echo "$name: newproc1 of this Go is unknown" >&2; return 1; }
    for file in "$module"/testdata/everygoroutine/runtime_*; do
        replace+=",\"$2/${file##*/}\":\"$file\""
    done
    printf '%s' "$replace"
}

# tests_armed PACKAGE IMPORT: prints the file that registers the handlers, for the tests of a package
# of this name, where this module is imported as IMPORT.
tests_armed() {
    sed "s/^package PACKAGE_/package $1_/; s,EXEUNT_PATH,$2," "$module/testdata/everygoroutine/exeunt_test.go.txt"
}

# counted: prints what all processes have counted, and fails if that does not add up.
counted() {
    awk 'NF { armed += $1; ended += $2; alive += $3; wrong += $4 + ($1 != $2 + $3); lines++ }
        END {
            printf "%d goroutines armed, %d handlers run, %d goroutines alive at the end", armed, ended, alive
            if (wrong) printf ": WRONG in %d of %d processes", wrong, lines
            print ""
            exit wrong > 0
        }' "$EXEUNT_TEST_INSTALLED"
}

# results FORM: from the lines of go test -json, each test and how it ended. Addresses and ports vary.
# FORM is the form of a line for sed, where \1 is the end, \2 the package, and \3 the test.
results() {
    sed -n 's/.*"Action":"\(pass\|fail\|skip\)".*"Package":"\([^"]*\)".*"Test":"\([^"]*\)".*/'"$1"'/p' |
        sed 's/0x[0-9a-f]*/0x.../g; s/:[0-9]\{4,5\}/:.../g' | sort
}

# differences: prints the lines that only one of the files without and armed in $work has, and fails
# if there are any.
differences() {
    diff "$work/without" "$work/armed" | sed -n 's/^</    without: /p; s/^>/    armed:   /p' | sort -k2 >"$work/differ"
    cat "$work/differ"
    [ ! -s "$work/differ" ]
}
