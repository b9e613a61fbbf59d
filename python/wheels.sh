#!/usr/bin/env bash
# Builds the Linux wheels for x86-64 and AArch64 and checks what they need: `python/wheels.sh [FOLDER [TARGET...]]`.
#
# The folder is target/wheels unless given. Rust needs the standard library of each target (`rustup target add TARGET`);
# Zig, from PyPI, links against the C library of manylinux2014, so that the wheels run wherever pip does.
set -euo pipefail
folder=$(realpath -m "${1:-$(dirname "$0")/../target/wheels}")
shift $(($# > 0))
cd "$(dirname "$0")/.."
environment=$PWD/target/wheel-tools
bin=$environment/bin
python/environment.sh "$environment" auditwheel==6.8.2 maturin==1.16.0 ziglang==0.17.1

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
# A file's name says what it should need, this what it does need.
for wheel in "$new"/*.whl; do
    tag=$("$bin/auditwheel" show --json "$wheel" | "$bin/python" -c 'import json, sys; print(json.load(sys.stdin)["overall_tag"])')
    case $tag in
        manylinux_2_17_*) ;;
        *) echo "$(basename "$wheel"): found $tag, expected manylinux_2_17" >&2; exit 1 ;;
    esac
done
mkdir -p "$folder"
for wheel in "$new"/*.whl; do
    mv "$wheel" "$folder"
    echo "$folder/$(basename "$wheel")"
done
