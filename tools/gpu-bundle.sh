#!/usr/bin/env bash
# `make gpu-bundle`: gpu-bundle/ with the kernels as liblacuna_cuda.so, `suite` (every integration test and the timings,
# one executable), the tool, `facts` (benches/facts), the Python comparison (benches/peers) and run.sh, for a Linux
# machine that has an NVIDIA driver and neither Rust nor a CUDA toolkit.
# The C++ runtime is linked statically; glibc must be at least as new as the one here.
set -euo pipefail

cd "$(dirname "$0")/.."
bundle=gpu-bundle
# Sizes that grow unseen are refused: 48 MiB is a minute's upload, and the comparison with other kernels takes only the
# library and `peers` along, beside wheels that are larger than both.
limit_mib=48
library_limit_mib=16

tools/fetch-cuda.sh --if-needed
# Linked differently from the usual build: a folder of its own, or each build would undo the other's work.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/gpu-bundle
export LACUNA_BUILD_DIR=${LACUNA_BUILD_DIR:-$PWD/target/gpu-bundle/kernels}
library=$CARGO_TARGET_DIR/kernels-library
# The programs find the library beside them. One set of flags for all steps, so that each crate is built once.
beside=(--config 'target."cfg(all())".rustflags=["-C", "link-arg=-Wl,-rpath,$ORIGIN"]')
rm -rf "$bundle"
mkdir -p "$bundle/peers" "$library"

messages=$(mktemp)
trap 'rm -f "$messages"' EXIT

# The archive, found where cargo says, as a library: it exports its table and nothing of the CUDA runtime, of which
# PyTorch brings its own.
cargo "${beside[@]}" check --release -p lacuna --features cuda --message-format=json-render-diagnostics >"$messages"
mapfile -t search < <(grep '"static=lacuna_cuda"' "$messages" | sed 's/.*"linked_paths":\[\([^]]*\)\].*/\1/' |
  tr ',' '\n' | sed -n 's/.*native=\([^"]*\)".*/-L\1/p')
"${CXX:-c++}" -shared -static-libstdc++ -static-libgcc -s -Wl,-u,lacuna_cuda_kernels -Wl,-Bsymbolic -Wl,-z,defs \
  -Wl,--exclude-libs,libcudart_static.a:libstdc++.a:libgcc.a:libgcc_eh.a -Wl,--as-needed "${search[@]}" -llacuna_cuda \
  -lcudart_static -lpthread -ldl -lrt -o "$library/liblacuna_cuda.so"
cp "$library/liblacuna_cuda.so" "$bundle/"

# The programs link that library. The tool's own tests read files of the checkout and stay here.
export LACUNA_LIB_DIR=$PWD/$library CXXSTDLIB_STATIC=1
[[ $library == /* ]] && LACUNA_LIB_DIR=$library
cargo "${beside[@]}" test --release --no-run -p lacuna --test suite --features cuda \
  --message-format=json-render-diagnostics >"$messages"
cargo "${beside[@]}" build --release -p lacuna-cli --features cuda
strip -o "$bundle/lacuna" "$CARGO_TARGET_DIR/release/lacuna"
strip -o "$bundle/suite" "$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$messages")"
# Where nvcc does not know sm_90a it says so with exit code 3, and the bundle goes without.
built=0
benches/facts/build.sh cuda "$CARGO_TARGET_DIR/facts/facts" || built=$?
((built == 0 || built == 3)) || exit "$built"
((built == 3)) || strip -o "$bundle/facts" "$CARGO_TARGET_DIR/facts/facts"
cp tools/gpu-bundle-run.sh "$bundle/run.sh"

cp -r benches/peers/*.py benches/peers/README.md cuda/lacuna_kernels.h cuda/abi "$bundle/peers/"

{
  echo "lacuna $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | sed -n 1p)," \
    "commit $(git describe --always --dirty 2>/dev/null || echo unknown)"
  echo "needs: x86-64 Linux, glibc $(getconf GNU_LIBC_VERSION | cut -d ' ' -f 2) or newer, an NVIDIA driver"
} >"$bundle/ABOUT"

ls -l "$bundle"
mib() { echo $(($(du -sk "$1" | cut -f 1) / 1024)); }
echo "$bundle: $(mib "$bundle") MiB, of which the kernels $(mib "$bundle/liblacuna_cuda.so")"
within() {
  if (($(mib "$1") >= $2)); then
    echo "error: $1 has $(mib "$1") MiB; expected less than $2" >&2
    exit 1
  fi
}
within "$bundle" "$limit_mib"
within "$bundle/liblacuna_cuda.so" "$library_limit_mib"
