#!/usr/bin/env bash
# `make gpu-bundle`: gpu-bundle/ with `suite` (every integration test and the timings, one stripped executable of the
# CUDA build), the tool, `facts` (benches/facts), and run.sh, for a Linux machine that has an NVIDIA driver and neither
# Rust nor a CUDA toolkit; and the kernels as liblacuna_cuda.so, with the Python comparison that uses it (benches/peers).
# The C++ runtime is linked statically; glibc must be at least as new as the one here.
set -euo pipefail

cd "$(dirname "$0")/.."
bundle=gpu-bundle
limit_mib=30

tools/fetch-cuda.sh --if-needed
export CXXSTDLIB_STATIC=1
# Linked differently from the usual build: a folder of its own, or each build would undo the other's work.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/gpu-bundle
export LACUNA_BUILD_DIR=${LACUNA_BUILD_DIR:-$PWD/target/gpu-bundle/kernels}

messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
# The tool's own tests read files of the checkout and stay here.
cargo test --release --no-run -p lacuna --test suite --features cuda --message-format=json-render-diagnostics >"$messages"
cargo build --release -p lacuna-cli --features cuda

rm -rf "$bundle"
mkdir -p "$bundle/peers"
strip -o "$bundle/lacuna" "$CARGO_TARGET_DIR/release/lacuna"
strip -o "$bundle/suite" "$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$messages")"
# Where nvcc does not know sm_90a it says so with exit code 3, and the bundle goes without.
built=0
benches/facts/build.sh cuda "$CARGO_TARGET_DIR/facts/facts" || built=$?
((built == 0 || built == 3)) || exit "$built"
((built == 3)) || strip -o "$bundle/facts" "$CARGO_TARGET_DIR/facts/facts"
cp tools/gpu-bundle-run.sh "$bundle/run.sh"

# The library links the archive that the suite links, found where cargo says; it exports one function and nothing of the
# CUDA runtime, of which PyTorch brings its own.
mapfile -t search < <(grep '"static=lacuna_cuda"' "$messages" | sed 's/.*"linked_paths":\[\([^]]*\)\].*/\1/' |
  tr ',' '\n' | sed -n 's/.*native=\([^"]*\)".*/-L\1/p')
"${CXX:-c++}" -std=c++17 -O2 -fPIC -fvisibility=hidden -shared -static-libstdc++ -static-libgcc -s \
  -Wl,--exclude-libs,ALL -Wl,-Bsymbolic -Wl,-z,defs -Wl,--as-needed -Icuda benches/peers/export.cpp "${search[@]}" \
  -llacuna_cuda -lcudart_static -lpthread -ldl -lrt -o "$bundle/liblacuna_cuda.so"
cp benches/peers/*.py benches/peers/README.md cuda/lacuna_kernels.h "$bundle/peers/"

{
  echo "lacuna $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)," \
    "commit $(git describe --always --dirty 2>/dev/null || echo unknown)"
  echo "needs: x86-64 Linux, glibc $(getconf GNU_LIBC_VERSION | cut -d ' ' -f 2) or newer, an NVIDIA driver"
} >"$bundle/ABOUT"

size=$(du -sk "$bundle" | cut -f 1)
ls -l "$bundle"
echo "$bundle: $((size / 1024)) MiB"
if ((size > limit_mib * 1024)); then
  echo "error: $bundle is larger than $limit_mib MiB" >&2
  exit 1
fi
