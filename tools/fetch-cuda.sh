#!/usr/bin/env bash
# Installs a pinned CUDA compiler (nvcc; no driver, no GPU needed), a disassembler and libclang as Python wheels into
# target/cuda-toolkit, where build.rs and xtask look by themselves. About 340 MB.
# Usage: tools/fetch-cuda.sh [--if-needed | --nvcc]   --if-needed: only where no nvcc of 12.8 or newer is found
#   --nvcc: installs nothing, prints the path of the nvcc that the build takes
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
folder=$root/target/cuda-toolkit
wheels=(
  nvidia-cuda-nvcc==13.0.88
  nvidia-cuda-crt==13.0.88
  nvidia-nvvm==13.0.88
  nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85
  nvidia-cuda-cuobjdump==13.2.78 # for `cargo xtask sass-gate`; there are no wheels of 13.0, newer ones read its objects
  nvidia-cuda-nvdisasm==13.2.78
  libclang==18.1.1
)
stamp=$folder/.wheels

# The places and the oldest release of build/toolkit.rs.
system_nvcc() {
  local candidates=("${NVCC:-}" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" "${CUDA_PATH:+$CUDA_PATH/bin/nvcc}"
    "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc)
  local nvcc release
  for nvcc in "${candidates[@]}"; do
    [[ -n $nvcc && -x $nvcc ]] || continue
    release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\.[0-9]*\),.*/\1/p')
    [[ -n $release ]] || continue
    if [[ $(printf '%s\n' 12.8 "$release" | sort -V | sed -n 1p) == 12.8 ]]; then
      echo "$nvcc"
      return 0
    fi
  done
  return 1
}

if [[ ${1:-} == --if-needed ]] && found=$(system_nvcc); then
  echo "using nvcc: $found"
  exit 0
fi
if [[ ${1:-} == --nvcc ]]; then
  wheel=$folder/nvidia/cu13/bin/nvcc
  if ! system_nvcc; then
    [[ -x $wheel ]] || { echo "error: no nvcc of 12.8 or newer; \`make cuda-toolkit\` installs one" >&2; exit 1; }
    echo "$wheel"
  fi
  exit 0
fi
if [[ -f $stamp && $(<"$stamp") == "${wheels[*]}" ]]; then
  exit 0
fi
if ! python3 -m pip --version >/dev/null 2>&1; then
  echo "error: the CUDA compiler comes as Python wheels, but \`python3 -m pip\` does not work here. Install Python 3" \
    "with pip (Debian, Ubuntu: apt-get install python3-pip), or install a CUDA toolkit of 12.8 or newer and set" \
    "CUDA_HOME." >&2
  exit 1
fi

echo "installing the CUDA compiler wheels into ${folder#"$root"/} (about 340 MB)"
# A half-installed folder must never pass for a whole one: install beside it, then move.
partial=$folder.partial
rm -rf "$partial" "$folder"
mkdir -p "$(dirname "$folder")"
if ! python3 -m pip install --quiet --disable-pip-version-check --no-input --root-user-action=ignore --no-deps \
  --no-compile --target "$partial" "${wheels[@]}"; then
  echo "error: pip could not install the CUDA compiler wheels (see above); without a network, install a CUDA toolkit" \
    "of 12.8 or newer and set CUDA_HOME." >&2
  exit 1
fi
printf '%s' "${wheels[*]}" >"$partial/.wheels"
mv "$partial" "$folder"
