#!/usr/bin/env bash
# `make gpu-bundle`: gpu-bundle/ with `suite` (every integration test and the timings, one stripped executable of the
# CUDA build), the tool, `facts` (benches/facts), and run.sh, for a Linux machine that has an NVIDIA driver and neither Rust nor a CUDA toolkit.
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
mkdir -p "$bundle"
strip -o "$bundle/lacuna" "$CARGO_TARGET_DIR/release/lacuna"
strip -o "$bundle/suite" "$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$messages")"
# Where nvcc does not know sm_90a it says so with exit code 3, and the bundle goes without.
built=0
benches/facts/build.sh cuda "$CARGO_TARGET_DIR/facts/facts" || built=$?
((built == 0 || built == 3)) || exit "$built"
((built == 3)) || strip -o "$bundle/facts" "$CARGO_TARGET_DIR/facts/facts"
cp tools/gpu-bundle-run.sh "$bundle/run.sh"
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
