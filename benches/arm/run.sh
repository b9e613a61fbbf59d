#!/usr/bin/env bash
# Estimates, without an ARM machine, what the inner loops cost on a Raspberry Pi 4 and 5, and llama.cpp's beside them.
#
#   benches/arm/run.sh [PROGRAM]
#
# PROGRAM is cinderblock's release build for AArch64, by default the one of `.ci/arm`. LLVM_MCA names the estimator; GGML is
# the folder `ggml` of llama.cpp's source, by default where benches/peer/run.sh leaves it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
program=${1:-$here/../../target/arm/aarch64-unknown-linux-gnu/release/cinderblock}
peer=${XDG_CACHE_HOME:-$HOME/.cache}/cinderblock-peer
ggml=${GGML:-$peer/llama_cpp_python-${LLAMA_CPP_PYTHON:-0.3.36}/vendor/llama.cpp/ggml}
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT

if [ -d "$ggml" ]; then
    options=(--target=aarch64-linux-gnu -isystem /usr/aarch64-linux-gnu/include -O3 -DNDEBUG -D_GNU_SOURCE
        -I"$ggml/include" -I"$ggml/src" -I"$ggml/src/ggml-cpu" -c)
    # This machine's C++ headers do; nothing is linked.
    version=$(find /usr/include/c++ -mindepth 1 -maxdepth 1 | sort -V | tail -1)
    for processor in cortex-a72 cortex-a76; do
        clang "${options[@]}" -mcpu=$processor "$ggml/src/ggml-cpu/arch/arm/quants.c" -o "$objects/quants.$processor.o"
    done
    clang++ "${options[@]}" -mcpu=cortex-a76 -std=c++17 -nostdinc++ -isystem "$version" \
        -isystem "/usr/include/$(uname -m)-linux-gnu/c++/${version##*/}" \
        "$ggml/src/ggml-cpu/arch/arm/repack.cpp" -o "$objects/repack.cortex-a76.o"
else
    echo "$ggml is missing: run benches/peer/run.sh -b for the comparison" >&2
fi
shopt -s nullglob
python3 "$here/cycles.py" "${LLVM_MCA:-llvm-mca-19}" "$program" "$objects"/*.o
