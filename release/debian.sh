# The Debian packages libexeunt0, libexeunt-dev and exeunt. Sourced by release/build.

# document ROOT PACKAGE CRATE FEATURES: the files that each package has in /usr/share/doc.
document() {
    local folder=$1/usr/share/doc/$2
    mkdir -p "$folder"
    {
        printf 'exeunt is licensed under either of MIT or Apache-2.0, at your choice.\n\n'
        # The same on both processors, as packages of both may be installed together. Debian has
        # the text of Apache-2.0 in a file.
        release/licences collect "$3" x86_64-unknown-linux-gnu,aarch64-unknown-linux-gnu ${4:+--features "$4"} |
            sed '/^Apache License 2.0$/,$d; /^ *Apache License$/,/END OF TERMS AND CONDITIONS/c\    (Apache License 2.0: /usr/share/common-licenses/Apache-2.0)'
        echo "Apache License 2.0: /usr/share/common-licenses/Apache-2.0"
    } >"$folder/copyright"
    printf 'exeunt (%s-1) unstable; urgency=medium\n\n  * Release %s.\n\n -- %s  %s\n' "$version" "$version" \
        "$maintainer" "$(date --date="@$SOURCE_DATE_EPOCH" --rfc-email)" | gzip -9n >"$folder/changelog.Debian.gz"
    gzip -9nc CHANGELOG.md >"$folder/changelog.gz"
}

# needs FILE...: the packages of libc and libgcc, in the versions that the files ask for.
needs() {
    local c gcc
    c=$(readelf --version-info "$@" | grep -o 'GLIBC_[0-9.]*' | cut -d _ -f 2 | sort -V | tail -n 1)
    gcc=$(readelf --version-info "$@" | grep -o 'GCC_[0-9.]*' | cut -d _ -f 2 | sort -V | tail -n 1)
    echo "libc6 (>= $c), libgcc-s1 (>= $gcc)"
}

# pack ROOT TO PACKAGE ARCHITECTURE SECTION DESCRIPTION, and further fields from standard input.
pack() {
    mkdir -p "$1/DEBIAN"
    {
        printf 'Package: %s\nSource: exeunt\nVersion: %s-1\nArchitecture: %s\nMaintainer: %s\n' "$3" "$version" "$4" "$maintainer"
        [ -z "$repository" ] || printf 'Homepage: %s\n' "$repository"
        printf 'Section: %s\nPriority: optional\n' "$5"
        printf 'Installed-Size: %s\n' "$(find "$1" -path "$1/DEBIAN" -prune -o -type f -size +0 -printf '%s\n' |
            awk '{ blocks += int(($1 + 1023) / 1024) } END { print blocks + 0 }')"
        cat
        printf 'Description: %s\n' "$6"
        printf ' %s\n' "exeunt gives any stack (thread, main thread or fiber) storage and exit" \
            "handlers, although the code that uses it did not start that stack. It is" \
            "for libraries, runtimes and tools whose code runs on threads and fibers that" \
            "a pool, a C library or a coroutine library has started."
    } >"$1/DEBIAN/control"
    (cd "$1" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | sort | xargs -d '\n' md5sum) >"$1/DEBIAN/md5sums"
    chmod -R u=rwX,go=rX "$1"
    find "$1" -exec touch --no-dereference "--date=@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group -Zxz --threads-max=1 --build "$1" "$2/debian/${3}_$version-1_$4.deb" >/dev/null
}

make_debian() { # WORK TO PROCESSOR
    . release/addresses
    local architecture=amd64 triple compiler strip=strip all=$1/debian-$3 multiarch=$3-linux-gnu root share function
    [ "$3" = x86_64 ] || architecture=arm64 strip=$3-linux-gnu-strip
    rust "$3" "$1"
    rm -rf "$all"
    mkdir -p "$2/debian"
    CC=$compiler ./install-c /usr --target "$triple" --libdir "lib/$multiarch" --destdir "$all/dev"
    root=$all/library
    mkdir -p "$root/usr/lib/$multiarch" "$root/DEBIAN"
    mv "$all/dev/usr/lib/$multiarch"/libexeunt.so.0* "$root/usr/lib/$multiarch"
    $strip --strip-unneeded --remove-section=.comment "$root/usr/lib/$multiarch/libexeunt.so.$version"
    release/forget-weak-versions "$root/usr/lib/$multiarch/libexeunt.so.$version"
    chmod 644 "$root/usr/lib/$multiarch/libexeunt.so.$version"
    document "$root" libexeunt0 exeunt capi
    echo "activate-noawait ldconfig" >"$root/DEBIAN/triggers"
    echo "libexeunt 0 libexeunt0 (>= $version)" >"$root/DEBIAN/shlibs"
    {
        echo 'libexeunt.so.0 libexeunt0 #MINVER#'
        echo ' EXEUNT_0.1@EXEUNT_0.1 0.1.0'
        nm --dynamic --defined-only "$root/usr/lib/$multiarch/libexeunt.so.$version" | awk '$2 == "T" { print $3 }' |
            sed 's/@.*//' | sort | while read -r function; do
                echo " $function@EXEUNT_0.1 $(awk -v name="$function" '$1 == name { print $2; found = 1 }
                    END { if (!found) print "0.1.0" }' release/symbols)"
            done
    } >"$root/DEBIAN/symbols"
    pack "$root" "$2" libexeunt0 "$architecture" libs "storage and exit handlers for any stack (shared library)" <<END
Multi-Arch: same
Depends: $(needs "$root/usr/lib/$multiarch/libexeunt.so.$version")
END

    root=$all/dev share=$all/dev/usr/share/doc/libexeunt-dev
    rm -r "$root/usr/share/doc"
    document "$root" libexeunt-dev exeunt capi
    cp -r examples/c "$share/examples"
    cp book/c.md "$share"
    gzip -9n "$share/c.md"
    pack "$root" "$2" libexeunt-dev "$architecture" libdevel "storage and exit handlers for any stack (development files)" <<END
Multi-Arch: same
Depends: libexeunt0 (= $version-1)
END

    [ -x "$CARGO_TARGET_DIR/$triple/release/exeunt" ] || make_program "$1" "$2" "$3"
    root=$all/program
    mkdir -p "$root/usr/bin" "$root/usr/share/man/man1"
    cp "$CARGO_TARGET_DIR/$triple/release/exeunt" "$root/usr/bin"
    $strip --strip-unneeded --remove-section=.comment "$root/usr/bin/exeunt"
    release/forget-weak-versions "$root/usr/bin/exeunt"
    gzip -9nc cli/exeunt.1 >"$root/usr/share/man/man1/exeunt.1.gz"
    document "$root" exeunt exeunt-cli ""
    pack "$root" "$2" exeunt "$architecture" devel "storage and exit handlers for any stack (tour and doctor)" <<END
Depends: $(needs "$root/usr/bin/exeunt")
END
}
