#!/usr/bin/env bash
# Runs lacuna's suite on this machine's GPU; the results also go to results.txt beside this script.
# Usage: ./run.sh [--only PART,PART..] [TEST FILTER]   Without a driver it still runs, on the SIMT host, and says so.
# Parts: facts, info, check, suite, memcheck, racecheck, synccheck, initcheck, timings. A machine that is lent for minutes
# can take them one after the other; each run adds to results.txt.
# Tests compare the GPU, the SIMT host and the f64 reference; compute-sanitizer runs where it is installed (its findings:
# sanitizer-*.txt); the timings go to timings.jsonl, facts and limits of the hardware (benches/facts) to facts.jsonl.
set -uo pipefail

cd "$(dirname "$0")"
all=facts,info,check,suite,memcheck,racecheck,synccheck,initcheck,timings
only=$all
if [[ ${1:-} == --only ]]; then
  only=${2:-}
  shift 2 || only=
  for part in ${only//,/ }; do
    [[ ,$all, == *,$part,* ]] || only=
  done
  if [[ -z $only ]]; then
    echo "--only needs some of $all" >&2
    exit 2
  fi
  exec > >(tee -a results.txt) 2>&1
else
  exec > >(tee results.txt) 2>&1
fi
cat ABOUT
if nvidia-smi --query-gpu=name,driver_version,clocks.sm --format=csv,noheader 2>/dev/null; then
  gpu_line="GPU: $(nvidia-smi --query-gpu=name --format=csv,noheader | sed -n 1p)"
else
  gpu_line="GPU: none found (nvidia-smi does not answer); the suite ran on the SIMT host only"
fi

failed=()
run() {
  local part=$1 name=$2
  shift 2
  [[ ,$only, == *,$part,* ]] || return 0
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
  run facts "facts of the hardware" hardware_facts
else
  run facts "facts of the hardware" echo "not checked: built by an nvcc that does not know sm_90a"
fi
run info "lacuna info" ./lacuna info
run check "every kernel against the reference" ./lacuna check
run suite "suite" ./suite "$@"
# Tests that start every kernel, by parts of their names.
kernels=(
  forward:: options:: paged:: ragged:: hopper:: decode::head_dims block_max::every_head_dim
  gate_features::blocks_subsets gate_vectors::sizes gate_lists::shapes gate_lists::long_rows
  seer_decode::compat seer_lists::attention_over s2_cache::chunked page_lists::rows
  backward:: hyper::head_dims hyper::projections_of hyper_choices::rounds hyper_choices::samples_by_values
)
if command -v compute-sanitizer >/dev/null && [[ $gpu_line != *none* ]]; then
  # The GPU alone, and one thread: the tools would slow the SIMT host down and have nothing to see there. The whole suite
  # would take hours.
  export LACUNA_TEST_DEVICES=cuda
  for tool in memcheck racecheck synccheck initcheck; do
    run "$tool" "compute-sanitizer $tool" timeout 1200 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      --log-file "sanitizer-$tool.txt" ./suite --test-threads 1 "${kernels[@]}"
  done
  unset LACUNA_TEST_DEVICES
else
  for tool in memcheck racecheck synccheck initcheck; do
    run "$tool" "compute-sanitizer $tool" echo "not run: it needs a GPU and compute-sanitizer in PATH"
  done
fi
run timings "timings" ./suite --ignored --nocapture timings
grep '^{' results.txt | grep -vE '^\{"(fact|measure|error)":' >timings.jsonl

printf '\n%s\n' "$gpu_line"
if ((${#failed[@]} > 0)); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "everything asked for passed"
