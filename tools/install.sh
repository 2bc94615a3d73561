#!/usr/bin/env bash
# Builds liblacuna and installs it: shared and static library, headers, pkg-config file.
# From the environment: PREFIX (/usr/local), LIBDIR (PREFIX/lib), DESTDIR (none: a staging root that is written in front
# of every path), FEATURES (simt; or simt,cuda).
set -euo pipefail

cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local}
libdir=${LIBDIR:-$prefix/lib}
[[ $prefix == /* && $libdir == /* ]] || { echo "error: PREFIX and LIBDIR must be absolute, got $prefix and $libdir" >&2; exit 1; }
version=$(sed -n 's/^version = "\(.*\)"/\1/p' capi/Cargo.toml)
soname=liblacuna.so.${version%.*}

cargo build --release -p lacuna-capi --no-default-features --features "${FEATURES:-simt}"
built=${CARGO_TARGET_DIR:-target}/release

to() { printf '%s' "${DESTDIR:-}$1"; }
install -d "$(to "$libdir/pkgconfig")" "$(to "$prefix/include/lacuna")"
install -m 644 capi/include/lacuna.h "$(to "$prefix/include")"
install -m 644 capi/include/lacuna/*.h "$(to "$prefix/include/lacuna")"
install -m 644 "$built/liblacuna.a" "$(to "$libdir")"
install -m 755 "$built/liblacuna.so" "$(to "$libdir/liblacuna.so.$version")"
ln -sf "liblacuna.so.$version" "$(to "$libdir/$soname")"
ln -sf "$soname" "$(to "$libdir/liblacuna.so")"
sed -e "s|@PREFIX@|$prefix|; s|@LIBDIR@|$libdir|; s|@VERSION@|$version|" capi/lacuna.pc.in \
  >"$(to "$libdir/pkgconfig/lacuna.pc")"
echo "installed liblacuna $version in $(to "$prefix")"
