#!/usr/bin/env bash
# Builds the Linux wheels for x86-64 and AArch64 and checks what they need: `python/wheels.sh [FOLDER [TARGET...]]`.
#
# The folder is target/wheels unless given. Rust needs the standard library of each target (`rustup target add TARGET`);
# Zig, from PyPI, links against the C library of manylinux2014, so that the wheels run wherever pip does.
set -euo pipefail
folder=$(realpath -m "${1:-$(dirname "$0")/../target/wheels}")
shift $(($# < 1 ? $# : 1))
cd "$(dirname "$0")/.."
environment=$PWD/target/wheel-tools
bin=$environment/bin
packages=(auditwheel==6.8.2 maturin==1.16.0 ziglang==0.17.1)
if [ "$(cat "$environment/packages" 2>/dev/null)" != "${packages[*]}" ]; then
    "${PYTHON:-python3}" -m venv --clear "$environment"
    "$bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"
    echo "${packages[*]}" > "$environment/packages"
fi

targets=("$@")
[ $# -gt 0 ] || targets=(x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu)
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
for target in "${targets[@]}"; do
    if [ ! -d "$("${RUSTC:-rustc}" --print sysroot)/lib/rustlib/$target/lib" ]; then
        echo "the standard library of $target is missing: rustup target add $target" >&2
        exit 1
    fi
    PATH=$bin:$PATH "$bin/maturin" build --quiet --release --locked --manifest-path python/Cargo.toml \
        --zig --compatibility manylinux2014 --target "$target" --out "$new"
done
for wheel in "$new"/*.whl; do
    "$bin/auditwheel" show "$wheel" | grep -q manylinux_2_17 || {
        echo "$(basename "$wheel"): needs a newer system than manylinux2014" >&2
        "$bin/auditwheel" show "$wheel" >&2
        exit 1
    }
done
mkdir -p "$folder"
for wheel in "$new"/*.whl; do
    mv "$wheel" "$folder"
    echo "$folder/$(basename "$wheel")"
done
