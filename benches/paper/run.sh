#!/bin/sh
# Measures block models against vanilla models of the paper's shapes and writes docs/paper.md; see README.md.
# run.sh [-o PROGRAM] [-w DIR] [-- OPTIONS OF paper.py]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
ours= work=${XDG_CACHE_HOME:-$HOME/.cache}/cinderblock-paper
while getopts o:w: option; do
    case $option in
        o) ours=$OPTARG ;;
        w) work=$OPTARG ;;
        *) echo "usage: run.sh [-o PROGRAM] [-w DIR] [-- OPTIONS OF paper.py]" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
if [ -z "$ours" ]; then
    cargo build --release --quiet --manifest-path "$here/../../Cargo.toml"
    ours=${CARGO_TARGET_DIR:-$here/../../target}/release/cinderblock
fi
mkdir -p "$work"
exec python3 "$here/paper.py" --program "$ours" --models "$work" "$@"
