#!/usr/bin/env bash
# clang-format of a pinned version over cuda/, simt-tests/, benches/, the C headers and the C and C++ examples. Usage: tools/clang-format.sh -i | --check
set -euo pipefail

cd "$(dirname "$0")/.."
folder=target/clang-format-18.1.8
binary=$folder/clang_format/data/bin/clang-format
if [[ ! -x $binary ]]; then
  python3 -m pip install --quiet --disable-pip-version-check --no-input --root-user-action=ignore --no-deps \
    --no-compile --target "$folder" clang-format==18.1.8
fi
folders=(cuda simt-tests benches capi examples)
mapfile -t files < <(find "${folders[@]}" -name '*.cu' -o -name '*.cuh' -o -name '*.h' -o -name '*.c' -o -name '*.cpp' | sort)
case ${1:-} in
  -i) "$binary" -i "${files[@]}" ;;
  --check) "$binary" --dry-run --Werror "${files[@]}" ;;
  *) echo "usage: tools/clang-format.sh -i | --check" >&2; exit 2 ;;
esac
