#!/bin/sh
# Builds and installs the C library: tools/install.sh PREFIX [FEATURES]
#
# Installs the library, the headers, and files for pkg-config and CMake, as `cargo cinstall --prefix PREFIX` does, with one
# difference: the static library is one object that exports the functions of the header and nothing else, so that a program
# can link it with other Rust libraries or with another version of itself. FEATURES is "capi,tokenizer" (the default) or
# "capi", without the tokenizer. DESTDIR and CARGO_TARGET_DIR are respected. To build for another machine, set
# CARGO_BUILD_TARGET to its target and CROSS_COMPILE to the prefix of its tools, such as aarch64-linux-gnu-.
set -eu
case ${1:-} in "" | -*) echo "usage: tools/install.sh PREFIX [FEATURES]" >&2; exit 2 ;; esac
case $1 in /*) prefix=$1 ;; *) prefix=$PWD/$1 ;; esac
features=${2:-capi,tokenizer}
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
# While the major version is 0, the minor version decides on compatibility.
interface=${version%.*}
build=${CARGO_TARGET_DIR:-target}/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}dist
tools=${CROSS_COMPILE:-}
for tool in cargo "${tools}ld" "${tools}objcopy" "${tools}ar" "${tools}strip"; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 1; }
done

echo "building libcinderblock $version with features $features: a few minutes the first time" >&2
cargo rustc --profile dist -p cinderblock --lib --no-default-features --features "$features" \
    --crate-type cdylib,staticlib -- -C link-arg=-Wl,-soname,libcinderblock.so."$interface"

root=${DESTDIR:-}$prefix
echo "installing to $root" >&2
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
# shellcheck disable=SC2086 # one word for each function
"${tools}ld" -r --gc-sections $keep --whole-archive "$build/libcinderblock.a" -o "$object"
# The objects of the standard library contain bitcode that other compilers may not be able to read.
"${tools}objcopy" --strip-debug --remove-section=.llvmbc --remove-section=.llvmcmd --wildcard --keep-global-symbol='cinder_*' "$object"
rm -f "$root/lib/libcinderblock.a"
"${tools}ar" rcs "$root/lib/libcinderblock.a" "$object"
rm -f "$object"

# Programs find the shared library where it was installed, without ldconfig; a package for distribution needs no such path.
rpath=
[ -n "${DESTDIR:-}" ] || rpath="-Wl,-rpath,\${libdir} "
cat > "$root/lib/pkgconfig/cinderblock.pc" <<END
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: cinderblock
Description: Run Block Transformer language models on the CPU
Version: $version
Libs: -L\${libdir} $rpath-lcinderblock
Libs.private: -lpthread -lm -ldl
Cflags: -I\${includedir}
END

size=$(wc -c < "$root/lib/libcinderblock.so.$version")
echo "installed libcinderblock $version in $root: shared library of $((size / 1000000)) MB, static library, headers, pkg-config, CMake"
case ":${PKG_CONFIG_PATH:-}:$(pkg-config --variable pc_path pkg-config 2>/dev/null || true):" in
*":$prefix/lib/pkgconfig:"*) ;;
*) echo "for pkg-config: export PKG_CONFIG_PATH=$prefix/lib/pkgconfig" ;;
esac
