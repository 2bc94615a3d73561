#!/usr/bin/env bash
# The SIMT host on aarch64, emulated: cross-compiles simt-tests/aarch64/main.cpp with the kernels, runs it under
# qemu-user, and compares the hash of its outputs with that of the native build. Installs nothing; on Debian and Ubuntu:
# apt-get install g++-aarch64-linux-gnu qemu-user
set -euo pipefail

cd "$(dirname "$0")/.."
cross=${AARCH64_CXX:-aarch64-linux-gnu-g++}
native=${CXX:-c++}
qemu=
for name in qemu-aarch64 qemu-aarch64-static; do
  command -v "$name" >/dev/null && { qemu=$name; break; }
done
if ! command -v "$cross" >/dev/null || [[ -z $qemu ]]; then
  echo "aarch64: not tested (no cross compiler or qemu)"
  exit 0
fi

# As build/simt.rs, with less optimisation: bits must not depend on it.
flags=(-std=c++17 -O2 -pthread -fno-exceptions -ffp-contract=off -fstack-clash-protection -Wall -Wextra -Wno-psabi
  -Wno-unknown-pragmas -DLACUNA_SIMT=1 -Icuda -Isimt-tests/kernels)
folder=${CARGO_TARGET_DIR:-target}/aarch64
mapfile -t sources < <(find cuda -name '*.cu' -o -path 'cuda/simt/*.cpp' | sort)
sources+=(simt-tests/kernels/*.cu simt-tests/kernels/forward_case.cpp simt-tests/aarch64/main.cpp)
newest_header=$(find cuda simt-tests -name '*.h' -printf '%T@ %p\n' | sort -rn | sed -n 1p | cut -d' ' -f2-)

# build MACHINE COMPILER FLAG..: objects are kept, and made anew when their source or any header is newer.
build() {
  local machine=$1 compiler=$2 source object objects=() stale=()
  shift 2
  mkdir -p "$folder/$machine"
  for source in "${sources[@]}"; do
    object=$folder/$machine/${source//\//_}.o
    objects+=("$object")
    if [[ ! -f $object || $source -nt $object || $newest_header -nt $object || tools/test-aarch64.sh -nt $object ]]; then
      stale+=("$source" "$object")
    fi
  done
  if ((${#stale[@]} > 0)); then
    # A failed compilation leaves no object.
    printf '%s\n' "${stale[@]}" | COMPILE="$compiler ${flags[*]} $*" xargs -d '\n' -n 2 -P "$(nproc)" \
      bash -c '$COMPILE -x c++ -c "$0" -o "$1.part" && mv "$1.part" "$1"'
  fi
  "$compiler" -pthread "$@" -o "$folder/$machine/main" "${objects[@]}"
}

started=$SECONDS
shadow_stacks=
[[ $(uname -m) == x86_64 ]] && shadow_stacks=-fcf-protection=none # the fiber switch breaks them
build native "$native" $shadow_stacks
# Static: no aarch64 libraries are needed at run time.
build aarch64 "$cross" -static
here=$("$folder/native/main") || { echo "$here"; echo "aarch64: the native build of the same tests fails"; exit 1; }
there=$("$qemu" "$folder/aarch64/main") || { echo "$there"; echo "aarch64: FAILED under $qemu"; exit 1; }
if [[ $here != "$there" ]]; then
  echo "aarch64: outputs differ: ${here} here, ${there} under $qemu"
  exit 1
fi
echo "aarch64: passed under $qemu, outputs equal those of $(uname -m) (${there}), $((SECONDS - started)) s"
