#!/usr/bin/env bash
# Builds the fuzz targets on stable Rust and runs one of them, or all of them.
set -euo pipefail
cd "$(dirname "$0")"

usage="usage: fuzz/run.sh TARGET|all|build [SECONDS] [libFuzzer options]"
target=${1:?$usage}
seconds=${2:-10}
shift $(($# < 2 ? $# : 2))

# What `cargo fuzz` passes on nightly, without its sanitizer.
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -C passes=sancov-module \
    -C llvm-args=-sanitizer-coverage-level=4 -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table -C llvm-args=-sanitizer-coverage-trace-compares"
if [ -n "${FUZZ_ADDRESS_SANITIZER:-}" ]; then
    # Unstable options on the stable compiler: for this program only, and in a folder of their own.
    export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$PWD/target/address
    RUSTFLAGS="$RUSTFLAGS -Zsanitizer=address"
fi
quick=()
if [ -n "${FUZZ_QUICK_BUILD:-}" ]; then
    # Half of the time, for a run of seconds: of the dependencies, nothing is optimized.
    for setting in 'opt-level=1' 'debug=false' 'package."*".opt-level=0' 'package.cinderblock.opt-level=1' \
        'package.cinderblock-tools.opt-level=1'; do
        quick+=(--config "profile.release.$setting")
    done
fi
cargo build --release --target "$host" "${quick[@]}"

# A host triple given by name keeps the flags away from build scripts and procedural macros.
binaries=${CARGO_TARGET_DIR:-target}/$host/release
targets=$(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | grep -v cinderblock-fuzz)
case $target in
    build) exit ;;
    all) ;;
    *) targets=$target ;;
esac
# run TARGET [libFuzzer options]: prints one line, and for a failure the log.
run() {
    local target=$1 length log=target/$1.log
    shift
    # What the fuzzer adds stays out of the repository; findings are files in fuzz/artifacts.
    mkdir -p "target/corpus/$target" "artifacts/$target"
    case $target in
        npy | sampler | recipe | decoding | model_shapes) length=256 ;;
        header | model | checkpoint) length=16384 ;;
        *) length=2048 ;;
    esac
    # The time is that of the clock, on a machine that may be busy.
    # The allocator of the targets fails beyond 256 MB at once and 1 GB in all; the fuzzer's limits are a second net.
    if "$binaries/$target" -max_total_time="$seconds" -timeout=60 -report_slow_units=60 -rss_limit_mb=2048 -malloc_limit_mb=1024 \
        -max_len="$length" -artifact_prefix="artifacts/$target/" -print_final_stats=1 \
        "$@" "target/corpus/$target" "corpus/$target" >"$log" 2>&1; then
        echo "fuzz $target: ok, $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") executions"
    else
        echo "fuzz $target: FAILED"
        grep -v '^#' "$log" | head -n 60
        return 1
    fi
}
export -f run
export binaries seconds

# As many at a time as there are processors.
printf '%s\n' $targets | xargs -P "$(nproc)" -I TARGET bash -c 'run "$@"' run TARGET "$@"
