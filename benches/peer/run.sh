#!/usr/bin/env bash
# Compares cinderblock with llama.cpp on this machine: builds both, writes both models, measures.
#
#   benches/peer/run.sh [-w WORK_DIR] [-o OURS] [-v] [-i avx2] [-p] [-b] [-s] [-- OPTION_OF_COMPARE.PY...]
#
#   -w  where the peer and the models are kept; a cache folder of the user by default
#   -o  the program to measure; by default it is built from this repository
#   -v  run the same vanilla model as the peer, not the block model of its quality
#   -i  avx2: both programs use this instruction set, whatever else the machine has
#   -p  only the peer
#   -b  only build and write the models
#   -s  build the peer's server too, say where it is, and end
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
release=${LLAMA_CPP_PYTHON:-0.3.36} # the PyPI source package that carries llama.cpp
work=${XDG_CACHE_HOME:-$HOME/.cache}/cinderblock-peer
ours='' preset=block_main_b4_1.2b isa='' peer_only=false build_only=false server=false
while getopts w:o:i:vpbs option; do
    case $option in
        w) work=$OPTARG ;;
        o) ours=$OPTARG ;;
        v) preset=vanilla_410 ;;
        i) isa=$OPTARG ;;
        p) peer_only=true ;;
        b) build_only=true ;;
        s) server=true ;;
        *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))

# GCC 12 miscompiles the peer's AMX tile setup, so the compiler is clang unless CC and CXX say otherwise.
export CC=${CC:-clang} CXX=${CXX:-clang++}
for tool in python3 cmake "$CC" "$CXX"; do
    command -v "$tool" >/dev/null || { echo "$tool is missing; see $here/README.md" >&2; exit 1; }
done
if command -v ninja >/dev/null; then export CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja}; fi
jobs=$(nproc)
mkdir -p "$work"
work=$(cd "$work" && pwd)
source=$work/llama_cpp_python-$release
llama=$source/vendor/llama.cpp
build=$work/build-$release${isa:+-$isa}
case $isa in
    '') instructions=(-DGGML_NATIVE=ON) ;;
    avx2) instructions=(-DGGML_NATIVE=OFF) ;; # the peer's default: AVX2, FMA, F16C, BMI2
    *) echo "-i: found $isa, expected avx2" >&2; exit 2 ;;
esac
if [ -n "$isa" ]; then export CINDERBLOCK_ISA=$isa; fi

if [ ! -f "$source/.unpacked" ]; then
    python3 -m pip download --quiet --no-deps --no-binary :all: -d "$work" "llama-cpp-python==$release"
    tar -xzf "$work/llama_cpp_python-$release.tar.gz" -C "$work"
    touch "$source/.unpacked"
fi
if [ ! -f "$build/.built" ]; then
    nice -n 10 cmake -S "$llama" -B "$build" -DCMAKE_BUILD_TYPE=Release "${instructions[@]}" -DGGML_CCACHE=OFF \
        -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
        -DLLAMA_USE_PREBUILT_UI=OFF >"$work/build.log" 2>&1 &&
        nice -n 10 cmake --build "$build" -j "$jobs" --target llama >>"$work/build.log" 2>&1 ||
        { tail -n 30 "$work/build.log" >&2; exit 1; }
    touch "$build/.built"
fi
peer=$build/bin/peer
if [ ! "$peer" -nt "$here/peer.c" ] || [ "$build/.built" -nt "$peer" ]; then
    "$CC" -std=c11 -O2 -Wall -Wextra -D_GNU_SOURCE -I"$llama/include" -I"$llama/ggml/include" "$here/peer.c" \
        -o "$peer" -L"$build/bin" -lllama -lggml -lggml-cpu -lggml-base -lm -Wl,-rpath,'$ORIGIN'
fi
peer_model=$work/pythia-410m-random.q4_0.gguf
if [ ! "$peer_model" -nt "$here/make_gguf.py" ]; then python3 "$here/make_gguf.py" "$peer_model"; fi
if $server; then
    nice -n 10 cmake --build "$build" -j "$jobs" --target llama-server >>"$work/build.log" 2>&1 ||
        { tail -n 30 "$work/build.log" >&2; exit 1; }
    echo "$build/bin/llama-server $peer_model"
    exit
fi
# The commit that the package says it took, from the latest entry of its change log.
commit=$(grep -om1 'ggml-org/llama.cpp@[0-9a-f]*' "$source/CHANGELOG.md" || true)
version="${commit:-llama.cpp} (llama-cpp-python $release, $("$CC" --version | head -n 1))"

arguments=(--peer "$peer" --peer-model "$peer_model" --peer-version "$version")
if ! $peer_only; then
    if [ -z "$ours" ]; then
        cargo build --release --quiet --manifest-path "$here/../../Cargo.toml"
        ours=${CARGO_TARGET_DIR:-$here/../../target}/release/cinderblock
    fi
    ours_model=$work/$preset.q4-head.gguf
    if [ ! -f "$ours_model" ]; then
        # Every matrix in q4, as a calibrated file of the fewest bits has it and as the peer's is.
        "$ours" synthesize --preset "$preset" --type q4 --tensor-type '*=q4' -o "$ours_model.part"
        mv "$ours_model.part" "$ours_model"
    fi
    arguments+=(--ours "$ours" --ours-model "$ours_model")
    if [ "$preset" = vanilla_410 ]; then arguments+=(--same-model); fi
fi
if $build_only; then exit; fi
exec python3 "$here/compare.py" "${arguments[@]}" "$@"
