#!/usr/bin/env bash
# clippy over lacuna-candle with candle's GPU side, warnings denied. candle compiles kernels of its own for that (ten minutes
# and more); a stand-in for nvcc gives them empty files, since nothing is linked or run here.
set -euo pipefail

cd "$(dirname "$0")/.."
stand_in=$(mktemp -d)
trap 'rm -rf "$stand_in"' EXIT
cat >"$stand_in/nvcc" <<'EOF'
#!/bin/sh
case $* in
  *--version*) printf '%s\n' nvcc: stand-in '' 'Cuda compilation tools, release 13.0, V13.0.88'; exit ;;
  *candle-kernels*) ;;
  *) echo "nvcc: stand-in for candle-kernels, was asked for: $*" >&2; exit 1 ;;
esac
for argument; do
  case $previous in
    -o) output=$argument ;;
    --output-directory) directory=$argument ;;
  esac
  previous=$argument
done
: >"${output:-$directory/$(basename "$argument" .cu).ptx}"
EOF
chmod +x "$stand_in/nvcc"

export LACUNA_SKIP_KERNELS=1 CUDA_COMPUTE_CAP=80 CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/candle-cuda
for features in cuda simt,cuda; do
  env -u NVCC PATH="$stand_in:$PATH" \
    cargo clippy --quiet -p lacuna-candle --all-targets --no-default-features --features "$features" -- -D warnings
done
