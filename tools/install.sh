#!/bin/sh
# Installs the C library: tools/install.sh PREFIX [FEATURES]
#
# Library, headers, pkg-config and CMake files, as `cargo cinstall --prefix PREFIX` does, with one difference: the
# static library is one object in which only the functions of the header are visible, so that it can meet another
# Rust library, or another version of itself, in one program. FEATURES is "capi,tokenizer"; "capi" alone leaves the
# tokenizer out. DESTDIR and CARGO_TARGET_DIR are respected. For another machine, CARGO_BUILD_TARGET names its target
# and CROSS_COMPILE what stands before the names of its tools, as in aarch64-linux-gnu-.
set -eu
[ $# -ge 1 ] || { echo "usage: tools/install.sh PREFIX [FEATURES]" >&2; exit 2; }
case $1 in /*) prefix=$1 ;; *) prefix=$PWD/$1 ;; esac
features=${2:-capi,tokenizer}
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
# While the first number is 0, the second one says what a program needs.
interface=${version%.*}
build=${CARGO_TARGET_DIR:-target}/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}dist
tools=${CROSS_COMPILE:-}
for tool in cargo "${tools}ld" "${tools}objcopy" "${tools}ar" "${tools}strip"; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 1; }
done

cargo rustc --profile dist --quiet -p cinderblock --lib --no-default-features --features "$features" \
    --crate-type cdylib,staticlib -- -C link-arg=-Wl,-soname,libcinderblock.so."$interface"

root=${DESTDIR:-}$prefix
mkdir -p "$root/include/cinderblock" "$root/lib/pkgconfig" "$root/share/cmake/cinderblock"
cp include/cinderblock.h include/cinderblock.hpp "$root/include"
cp include/cinderblock/module.modulemap "$root/include/cinderblock"
cp cmake/*.cmake "$root/share/cmake/cinderblock"

cp "$build/libcinderblock.so" "$root/lib/libcinderblock.so.$version"
"${tools}strip" --strip-debug "$root/lib/libcinderblock.so.$version"
ln -sf "libcinderblock.so.$version" "$root/lib/libcinderblock.so.$interface"
ln -sf "libcinderblock.so.$interface" "$root/lib/libcinderblock.so"

object=$build/libcinderblock.o
keep=$(sed -n 's/^[a-z].*[ *]\(cinder_[a-z_]*\)(.*/--undefined=\1/p' include/cinderblock.h | grep -v '(\*')
# shellcheck disable=SC2086 # one word a function
"${tools}ld" -r --gc-sections $keep --whole-archive "$build/libcinderblock.a" -o "$object"
# Rust's own objects carry bitcode that no other compiler of this machine may be able to read.
"${tools}objcopy" --strip-debug --remove-section=.llvmbc --remove-section=.llvmcmd --wildcard --keep-global-symbol='cinder_*' "$object"
rm -f "$root/lib/libcinderblock.a"
"${tools}ar" rcs "$root/lib/libcinderblock.a" "$object"
rm -f "$object"

cat > "$root/lib/pkgconfig/cinderblock.pc" <<END
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: cinderblock
Description: Run Block Transformer language models on the CPU
Version: $version
Libs: -L\${libdir} -lcinderblock
Libs.private: -lpthread -lm -ldl
Cflags: -I\${includedir}
END
