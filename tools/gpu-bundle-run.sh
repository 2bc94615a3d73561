#!/usr/bin/env bash
# Runs lacuna's suite on this machine's GPU; the results also go to results.txt beside this script.
# Usage: ./run.sh [TEST FILTER]   Without a driver it still runs, on the SIMT host, and says so.
# Tests compare the GPU, the SIMT host and the f64 reference; compute-sanitizer runs where it is installed (its findings:
# sanitizer-*.txt); the timings go to timings.jsonl, facts and limits of the hardware (benches/facts) to facts.jsonl.
set -uo pipefail

cd "$(dirname "$0")"
exec > >(tee results.txt) 2>&1
cat ABOUT
if nvidia-smi --query-gpu=name,driver_version,clocks.sm --format=csv,noheader 2>/dev/null; then
  gpu_line="GPU: $(nvidia-smi --query-gpu=name --format=csv,noheader | sed -n 1p)"
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

# First: a fact that does not hold explains what fails behind it. Exit code 2: no GPU of compute capability 9.0.
hardware_facts() {
  ./facts | tee facts.jsonl
  local status=${PIPESTATUS[0]}
  ((status == 2)) && echo "not checked: they are about Hopper GPUs" && return 0
  return "$status"
}
if [[ -x ./facts ]]; then
  run "facts of the hardware" hardware_facts
else
  printf '\n== facts of the hardware\nnot checked: built by an nvcc that does not know sm_90a\n'
fi
run "lacuna info" ./lacuna info
run "every kernel against the reference" ./lacuna check
run "suite" ./suite "$@"
if command -v compute-sanitizer >/dev/null && [[ $gpu_line != *none* ]]; then
  # The GPU alone, and one thread: the tools would slow the SIMT host down and have nothing to see there. The whole suite
  # would take hours; these tests start every kernel, with every mask, plan, sharing of rows and page size.
  export LACUNA_TEST_DEVICES=cuda
  for tool in memcheck racecheck synccheck initcheck; do
    run "compute-sanitizer $tool" timeout 1200 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      --log-file "sanitizer-$tool.txt" ./suite --test-threads 1 forward:: options:: paged:: hopper::every_way \
      hopper::ragged hopper::formulas hopper::splits
  done
  unset LACUNA_TEST_DEVICES
fi
run "timings" ./suite --ignored --nocapture timings
grep '^{' results.txt | grep -vE '^\{"(fact|measure|error)":' >timings.jsonl

printf '\n%s\n' "$gpu_line"
if ((${#failed[@]} > 0)); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "everything passed"
