#!/usr/bin/env bash
# Builds the Python wheel into target/wheel, with pip. FEATURES (simt; or simt,cuda) from the environment.
set -euo pipefail

cd "$(dirname "$0")/.."
wheels=$PWD/target/wheel
mkdir -p "$wheels"
rm -f "$wheels"/*.whl
# setuptools builds beside setup.py, and packs what it finds there of earlier builds.
scraps=(python/build python/lacuna.egg-info)
rm -rf "${scraps[@]}"
trap 'rm -rf "${scraps[@]}"' EXIT
LACUNA_FEATURES=${FEATURES:-simt} python3 -m pip wheel --quiet --disable-pip-version-check --no-input --no-deps \
  --wheel-dir "$wheels" ./python
ls -l "$wheels"/*.whl
