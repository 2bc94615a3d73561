#!/usr/bin/env bash
# The smaller checks of .ci/run, one function each: bash -euo pipefail .ci/checks.sh NAME
set -euo pipefail

cd "$(dirname "$0")/.."

bindings() {
  tools/fetch-cuda.sh
  cargo test --quiet --release -p lacuna-xtask
  cargo xtask bindings --check
}

# A PATH with what Rust needs to link (cc, ld) and nothing that compiles C++ or CUDA.
no_compiler() {
  local tools
  tools=$(mktemp -d)
  trap "rm -rf '$tools'" EXIT
  local name
  for name in cargo rustc rustdoc cc gcc ld as ar env; do
    if command -v "$name" >/dev/null; then ln -s "$(command -v "$name")" "$tools/$name"; fi
  done
  if PATH=$tools command -v c++ || PATH=$tools command -v g++ || PATH=$tools command -v nvcc; then
    echo "the restricted PATH still has a compiler"
    return 1
  fi
  # A folder of its own: nothing built before may help.
  env -u CXX -u NVCC -u CUDA_HOME -u CUDA_PATH PATH="$tools" CARGO_TARGET_DIR=target/ci/no-compiler \
    "$tools/cargo" check --no-default-features -p lacuna
}

features() {
  local set
  for set in "" simt cuda simt,cuda; do
    echo "-- features: ${set:-none}"
    cargo build --release -p lacuna --no-default-features --features "$set"
  done
}

# What nvcc made of the kernels, as the assembler reports it and as the disassembler shows it. No GPU is needed.
machine_code() {
  cargo build --release -p lacuna --features cuda
  echo "-- every kernel: registers, local memory, advisories"
  cargo xtask ptxas-gate "$LACUNA_BUILD_DIR/ptxas"
  echo "-- Hopper forward kernels: products, TMA, softmax under products"
  cargo xtask sass-gate "$LACUNA_BUILD_DIR/ptxas"
}

starts_without_driver() {
  cargo build --release -p lacuna-cli --features cuda
  local binary=${CARGO_TARGET_DIR:-target}/release/lacuna
  local stripped=target/ci/lacuna-stripped
  strip -o "$stripped" "$binary"
  echo "size: $(($(stat -c %s "$binary") / 1024)) KiB, stripped $(($(stat -c %s "$stripped") / 1024)) KiB"
  ldd "$binary"
  if ldd "$binary" | grep -E 'libcuda\.|libcudart'; then
    echo "the binary is linked to a CUDA library dynamically"
    return 1
  fi
  "$binary" info
}

# liblacuna as its users meet it: installed, through pkg-config, from C and C++, under AddressSanitizer, shared and static.
c_abi() {
  local prefix=$PWD/target/ci/prefix
  rm -rf "$prefix"
  make --no-print-directory install PREFIX="$prefix"
  export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
  local header flags libs warnings="-Wall -Wextra -pedantic -Werror"
  flags=$(pkg-config --cflags lacuna) libs=$(pkg-config --libs lacuna)
  echo "-- every header alone, as C11 and as C++17"
  for header in lacuna.h lacuna/{attention,cache,core,gradient,hyper,plan,seer,tensor}.h; do
    echo "#include <$header>" | cc -x c -std=c11 $warnings $flags -fsyntax-only -
    echo "#include <$header>" | c++ -x c++ -std=c++17 $warnings $flags -fsyntax-only -
  done
  echo "-- the library exports what the headers declare"
  diff <(nm -D --defined-only "$prefix/lib/liblacuna.so" | awk '{ print $3 }' | sort) \
    <(grep -ohE '\blacuna_[a-z0-9_]+\(' -r "$prefix/include" | tr -d '(' | sort -u)
  echo "-- programs, under AddressSanitizer"
  local sanitize="-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined" out=target/ci
  cc -std=c11 $warnings $sanitize $flags examples/01_attention.c $libs -lm -o $out/attention
  c++ -std=c++17 $warnings $sanitize $flags examples/02_serving.cpp $libs -pthread -o $out/serving
  cc -std=c11 $warnings $sanitize $flags examples/03_hostile.c $libs -pthread -o $out/hostile
  cc -std=c11 $warnings $sanitize $flags examples/04_gradient.c $libs -lm -o $out/gradient
  cc -std=c11 $warnings $sanitize $flags examples/08_evicting_cache.c $libs -o $out/cache
  local program
  for program in attention serving hostile gradient cache; do $out/$program; done
  echo "-- linked statically"
  cc -std=c11 $flags examples/01_attention.c $(pkg-config --static --libs lacuna | sed 's/-llacuna/-l:liblacuna.a/') \
    -o $out/attention-static
  env -u LD_LIBRARY_PATH $out/attention-static
}

# The wheel as its users meet it: installed into an environment of its own, tested away from the sources. Tests against
# torch run where it is installed; pytest's header says whether it is.
python_wheel() {
  tools/wheel.sh
  local environment=target/ci/python wheel
  wheel=$(echo target/wheel/lacuna-*-py3-none-*.whl)
  python3 -m venv --clear "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check --no-input "$wheel[test]" mypy
  "$environment/bin/pip" show --files lacuna | grep -E '\.so|\.h|py\.typed'
  local library
  library=$("$environment/bin/python" -c 'import lacuna, pathlib; print(pathlib.Path(lacuna.__file__).parent / "liblacuna.so")')
  if ldd "$library" | grep -E 'libstdc|libcuda\.|libcudart'; then
    echo "the wheel's library needs more than the C library"
    return 1
  fi
  "$environment/bin/python" -m pytest -q -rs -p no:cacheprovider python/tests
  echo "-- the examples of the package and of its README"
  "$environment/bin/python" -c 'import doctest, lacuna; assert doctest.testmod(lacuna) == (0, 3)'
  "$environment/bin/python" -c "$(sed -n '/^```python/,/^```/p' python/README.md | sed '/^```/d')"
  echo "-- types"
  "$environment/bin/mypy" --config-file python/pyproject.toml python/lacuna
}

# Source files stay below 30 KB (generated bindings aside).
file_sizes() {
  local large folder folders=()
  for folder in src cuda capi cli python build build.rs xtask tests simt-tests examples benches tools; do
    [[ -e $folder ]] && folders+=("$folder")
  done
  large=$(find "${folders[@]}" -type f \
    \( -name '*.rs' -o -name '*.py' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h' -o -name '*.c' -o -name '*.cpp' -o -name '*.sh' \) \
    -size +30720c ! -path src/kernels/bindings.rs ! -path capi/src/abi.rs -printf '%s %p\n')
  if [[ -n $large ]]; then
    printf 'larger than 30 KB:\n%s\n' "$large"
    return 1
  fi
  echo "no source file above 30 KB"
}

package() {
  local list
  list=$(cargo package -p lacuna --allow-dirty --list)
  echo "$list" | awk -F/ '{ n[$1 (NF > 1 ? "/" : "")]++ } END { for (top in n) printf "  %4d %s\n", n[top], top }' | sort -k 2
  if echo "$list" | grep -E '^(capi|data|cli|examples|python|tests|xtask|target)/'; then
    echo "the files above do not belong in the package"
    return 1
  fi
  local required
  for required in build.rs build/cuda.rs cuda/lacuna_kernels.h src/lib.rs src/kernels/bindings.rs LICENSE-MIT \
    LICENSE-APACHE README.md; do
    grep -qx "$required" <<<"$list" || { echo "$required is missing from the package"; return 1; }
  done
  if ! cargo publish --dry-run -p lacuna --allow-dirty; then
    echo "-- publishing needs the registry's index; the same check without it:"
    cargo package -p lacuna --allow-dirty --offline
  fi
  cargo package -p lacuna --allow-dirty --no-verify --quiet
  local crate bytes
  crate=$(ls -t "${CARGO_TARGET_DIR:-target}"/package/lacuna-*.crate | head -n 1)
  bytes=$(stat -c %s "$crate")
  echo "package: $((bytes / 1024)) KiB compressed"
  ((bytes < 1024 * 1024)) || { echo "more than 1 MiB"; return 1; }
}

# Without a GPU the bundle runs on the SIMT host and says so; what it proves here is that it needs nothing else.
gpu_bundle() {
  make --no-print-directory gpu-bundle
  (cd gpu-bundle && env -i PATH=/usr/bin:/bin ./run.sh | grep -v ' \.\.\. ok$')
}

# What the bundle asks of a GPU, asked of the SIMT host: the expectations of both must be the same.
facts() {
  benches/facts/build.sh simt target/ci/facts
  target/ci/facts
}

# The comparison with other kernels as it travels in the bundle: its self test, and what the library exports and needs.
peers() {
  local library=gpu-bundle/liblacuna_cuda.so exported
  exported=$(nm -D --defined-only "$library" | awk '{ print $3 }')
  if [[ $exported != lacuna_cuda_kernels ]]; then
    printf 'the library exports:\n%s\n' "$exported"
    return 1
  fi
  ldd "$library"
  if ldd "$library" | grep -E 'libcuda\.|libcudart|libstdc'; then
    echo "the library needs more than the C library"
    return 1
  fi
  PYTHONDONTWRITEBYTECODE=1 python3 gpu-bundle/peers/selftest.py
}

case ${1:-} in
  bindings | c_abi | facts | features | file_sizes | gpu_bundle | machine_code | no_compiler | package | peers | python_wheel | starts_without_driver) "$1" ;;
  *) echo "no such check: ${1:-}" >&2; exit 2 ;;
esac
