#!/usr/bin/env bash
# `make test`: the whole suite. Where no GPU is, the CUDA build is made and started, and the summary says so.
set -euo pipefail

cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

step() { printf '\n== %s\n' "$*"; }

gpu_name() {
  [[ -e /dev/nvidiactl || -e /dev/dxg ]] || return 1
  nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | sed -n 1p | grep .
}

step "CUDA compiler"
tools/fetch-cuda.sh --if-needed

# xtask is for developers; CI tests it where it uses it.
# Profilers' ranges are on: their own tests run, and the others show that nothing depends on them.
suite=(cargo test --release --workspace --exclude lacuna-xtask --no-fail-fast --features lacuna/nvtx,lacuna/tracing)
cuda=(--features "lacuna/cuda,lacuna-cli/cuda")

failed=0
step "test suite on the SIMT host"
"${suite[@]}" 2>&1 | tee "$log" || failed=1

if gpu=$(gpu_name); then
  step "test suite with the CUDA build, on $gpu"
  "${suite[@]}" "${cuda[@]}" 2>&1 | tee -a "$log" || failed=1
  gpu_line="GPU: $gpu, the kernels ran on it"
else
  # Every test executable of the CUDA build must start without a driver; the tests about that ("driver" in their
  # name) run, the others would only repeat the SIMT host.
  step "CUDA build without a GPU: compile, start, choose the SIMT host"
  "${suite[@]}" "${cuda[@]}" -- driver 2>&1 |
    tee -a "$log" || failed=1
  gpu_line="GPU: none found, so the CUDA kernels were compiled and not run"
fi

count() { awk -v unit="$1" '/^test result:/ { for (i = 2; i <= NF; i++) if ($i ~ "^" unit) n += $(i - 1) } END { print n + 0 }' "$log"; }
mkdir -p target/ci
{
  printf 'suite: %d passed, %d failed, %d skipped\n' "$(count passed)" "$(count failed)" "$(count ignored)"
  echo "$gpu_line"
} >target/ci/summary
echo
cat target/ci/summary
exit "$failed"
