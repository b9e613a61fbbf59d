#!/usr/bin/env bash
# Builds the wheel, installs it in a virtual environment and tests it there: `python/test.sh [PYTEST ARGUMENTS]`.
# `python/test.sh prepare` makes the environment alone.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$PWD/target/python-package
bin=$environment/bin
python/environment.sh "$environment" ipykernel==7.4.0 lm-eval==0.4.13 matplotlib==3.11.0 maturin==1.16.0 mypy==2.4.1 \
    nbclient==0.11.0 psutil pytest==9.2.0 'ray[data]==2.60.0' ruff==0.17.6 typing_extensions
[ "${1:-}" != prepare ] || exit 0

wheels=$environment/wheels
rm -rf "$wheels"
"$bin/maturin" build --release --locked --quiet --manifest-path python/Cargo.toml --out "$wheels"
"$bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps "$wheels"/cinderblock-*.whl
"$bin/pip" install --quiet --disable-pip-version-check "$wheels"/cinderblock-*.whl

"$bin/ruff" check python
"$bin/ruff" format --check python
# The installed package is tested, not the source.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r python/tests python/pyproject.toml "$folder"
export CINDERBLOCK_MODELS=${CINDERBLOCK_MODELS:-$PWD/models}
cd "$folder"
"$bin/mypy" --strict -p cinderblock -p tests
"$bin/python" -m mypy.stubtest cinderblock._native --mypy-config-file pyproject.toml
"$bin/python" -m pytest -rs "$@"
