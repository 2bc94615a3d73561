#!/usr/bin/env bash
# Runs lacuna's suite on this machine's GPU; the results also go to results.txt beside this script.
# Usage: ./run.sh [TEST FILTER]   Without a driver it still runs, on the SIMT host, and says so.
set -uo pipefail

cd "$(dirname "$0")"
exec > >(tee results.txt) 2>&1
cat ABOUT
if nvidia-smi --query-gpu=name,driver_version,clocks.sm --format=csv,noheader 2>/dev/null; then
  gpu_line="GPU: $(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)"
else
  gpu_line="GPU: none found (nvidia-smi does not answer); the suite ran on the SIMT host only"
fi

failed=()
run() {
  local name=$1
  shift
  printf '\n== %s\n' "$name"
  "$@" || failed+=("$name")
}

run "lacuna info" ./lacuna info
for test in tests/*; do
  run "$test" "./$test" "$@"
done

printf '\n%s\n' "$gpu_line"
if ((${#failed[@]} > 0)); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "everything passed"
