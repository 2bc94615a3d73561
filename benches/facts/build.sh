#!/usr/bin/env bash
# Builds the facts program. Usage: benches/facts/build.sh cuda|simt OUTPUT
#   cuda: for a Hopper GPU, with the CUDA runtime linked statically; exit code 3 if nvcc does not know sm_90a
#   simt: the facts alone on the SIMT host, which proves what they expect; needs a C++17 compiler
set -euo pipefail

machine=${1:-}
output=${2:-}
if [[ -z $output || ! $machine =~ ^(cuda|simt)$ ]]; then
  echo "usage: benches/facts/build.sh cuda|simt OUTPUT" >&2
  exit 2
fi
mkdir -p "$(dirname "$output")"
output=$(realpath -m "$output")
cd "$(dirname "$0")/../.."
folder=${CARGO_TARGET_DIR:-target}/facts/$machine
mkdir -p "$folder"
rm -f "$folder"/*.o

sources=(benches/facts/main.cu benches/facts/{harness,checks}/*.cu cuda/ptx/tensor_map.cu)
if [[ $machine == cuda ]]; then
  nvcc=$(tools/fetch-cuda.sh --nvcc)
  if [[ $("$nvcc" --help) != *sm_90a* ]]; then
    echo "facts: not built, $nvcc does not know sm_90a"
    exit 3
  fi
  sources+=(benches/facts/measures/*.cu)
  compile="$nvcc -std=c++17 -O3 -lineinfo -DLACUNA_SIMT=0 -DLACUNA_BUILT_SM90A=1 -gencode arch=compute_90a,code=sm_90a --compress-mode=size"
  compile+=" -Xcompiler=-Wall,-Wextra,-Wno-unknown-pragmas -Icuda -Ibenches/facts"
  link=("$nvcc" -cudart static -Xcompiler=-static-libstdc++,-static-libgcc)
  # Wheels keep the runtime where their nvcc does not look.
  root=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
  for place in lib lib64 targets/x86_64-linux/lib targets/sbsa-linux/lib; do
    [[ -d $root/$place ]] && link+=("-L$root/$place")
  done
else
  sources+=(cuda/simt/*.cpp)
  # As build/simt.rs.
  compile="${CXX:-c++} -std=c++17 -O2 -g1 -pthread -DLACUNA_SIMT=1 -fno-exceptions -ffp-contract=off"
  compile+=" -fstack-clash-protection -Wall -Wextra -Wno-psabi -Wno-unknown-pragmas -Icuda -Ibenches/facts -x c++"
  [[ $(uname -m) == x86_64 ]] && compile+=" -fcf-protection=none"
  link=("${CXX:-c++}" -pthread)
fi

for source in "${sources[@]}"; do
  printf '%s\n' "$source" "$folder/${source//\//_}.o"
done | COMPILE=$compile xargs -d '\n' -n 2 -P "${LACUNA_NVCC_JOBS:-$(nproc)}" bash -c '$COMPILE -c "$0" -o "$1"'
"${link[@]}" -o "$output" "$folder"/*.o
echo "$output: $(stat -c %s "$output") bytes"
