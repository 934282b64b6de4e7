# To be sourced by check and try: how a program and an exercise are built and run.
# A folder with a script `run` has its own way. It gets CC, OPT, RUN (an emulator or nothing), OUT.
flags="-g -fno-omit-frame-pointer -Wall -rdynamic -pthread"
use() { # ARCH OPT
    export ARCH=$1 OPT=$2 OUT
    case $1 in
    x86_64) export CC="${CC_x86_64:-gcc}" RUN="" ;;
    aarch64) export CC="${CC_aarch64:-aarch64-linux-gnu-gcc}" RUN="qemu-aarch64-static -cpu max" ;;
    esac
}
program() { # FOLDER: prints the program's output
    if [ -x "$1/run" ]; then "$1/run"; return; fi
    # shellcheck disable=SC2086
    $CC $OPT $flags "$1"/[0-9]*.c -o "$OUT/program" -ldl && timeout 20 $RUN "$OUT/program"
}
exercise() { # FOLDER FILE: whether the test of FOLDER accepts FILE
    if [ -x "$1/test" ]; then "$1/test" "$2"; return; fi
    # shellcheck disable=SC2086
    $CC $OPT $flags -DEXERCISE="\"$2\"" "$1/test.c" -o "$OUT/exercise" -ldl && timeout 20 $RUN "$OUT/exercise"
}
