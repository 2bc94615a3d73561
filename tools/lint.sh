#!/usr/bin/env bash
# Formatting and static checks, warnings denied. They compile no kernels: build.rs skips them.
set -euo pipefail

cd "$(dirname "$0")/.."
export LACUNA_SKIP_KERNELS=1

echo "-- rustfmt"
cargo fmt --all --check
rustfmt --check build/*.rs
echo "-- clang-format"
tools/clang-format.sh --check
# Separate folder: the skipped kernels must not be seen by builds that link.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/lint
for features in "" simt cuda simt,cuda simt,nvtx,tracing; do
  echo "-- clippy, library with features: ${features:-none}"
  cargo clippy --quiet -p lacuna --all-targets --no-default-features --features "$features" -- -D warnings
done
echo "-- clippy, workspace"
cargo clippy --quiet --workspace --all-targets -- -D warnings
cargo clippy --quiet --workspace --all-targets --features lacuna/cuda,lacuna-cli/cuda -- -D warnings
echo "-- clippy, lacuna-candle with candle's GPU side"
tools/check-candle-cuda.sh
echo "-- rustdoc"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps -p lacuna --features cuda
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --workspace --document-private-items
