# The static command line, with musl. Sourced by release/build.

make_static() { # WORK TO PROCESSOR
    local name=exeunt-program-$version-linux-$3 folder=$1/static/exeunt-program-$version-linux-$3 triple=$3-unknown-linux-musl
    local upper=${3^^} flags readelf=readelf path
    if [ ! -e .ci/musl-environment ]; then
        echo "== NOT MADE: the static command line, as the library does not support musl here"
        return
    fi
    # A process of its own: the file changes cargo's environment.
    (
        unset RUSTFLAGS
        musl_arch=$3
        # zig is installed once.
        mkdir -p "$base/../musl/tools" "$CARGO_TARGET_DIR/musl"
        ln -sfn "$(realpath "$base/../musl/tools")" "$CARGO_TARGET_DIR/musl/tools"
        (CARGO_TARGET_DIR=$base/.. flock "$base/../musl/tools" bash -c '. .ci/musl-environment')
        . .ci/musl-environment
        flags=CARGO_TARGET_${upper}_UNKNOWN_LINUX_MUSL_RUSTFLAGS
        RUSTFLAGS="${!flags} --remap-path-prefix=$1/source=/exeunt"
        for path in "$crates_home"/*/; do RUSTFLAGS+=" --remap-path-prefix=${path%/}=/crates"; done
        export "$flags=$RUSTFLAGS" "CFLAGS_${triple//-/_}=-g0 -ffile-prefix-map=$1/source=."
        unset RUSTFLAGS
        "$cargo" build --quiet --locked --release --package exeunt-cli
    )
    rm -rf "$folder"
    mkdir -p "$folder"
    cp cli/README.md cli/doctor.md cli/exeunt.1 LICENSE-MIT LICENSE-APACHE CHANGELOG.md "$folder"
    cp "$CARGO_TARGET_DIR/musl/$triple/release/exeunt" "$folder"
    release/licences collect exeunt-cli "$triple" --static >"$folder/LICENCES.txt"
    [ "$3" = x86_64 ] || readelf=$3-linux-gnu-readelf
    if $readelf --program-headers "$folder/exeunt" | grep INTERP >/dev/null; then failed "the command line for $triple is not static"; fi
    archive "$1/static" "$name" "$2/$name.tar.xz"
}
