//! The tile registers of AMX: asking for them, and the two products that are made with them.
//!
//! Rust's AMX intrinsics are not stable, so the instructions are written out.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// The tile registers, or what stands for them in a test.
pub(super) trait Tiles {
    /// `sums[c][r]` = the product of 32 signed inputs of column `c` with 32 unsigned weights of row `r`. `half`, 0 or 1,
    /// names a set of registers, so that two products in a row do not wait for each other.
    ///
    /// # Safety
    /// The tiles are available and configured. `rows` has 16 rows of 32 bytes that lie `stride` apart, `lines` 8 of 64
    /// (`[quad of inputs][row][4]`), and `sums` has room for `[16][16]`.
    unsafe fn group(half: usize, rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32);

    /// The same of 128 inputs.
    ///
    /// # Safety
    /// As `group`, with rows of 128 bytes and 32 lines.
    unsafe fn span(rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32);
}

/// The registers themselves.
pub(super) struct Hardware;

/// What `ldtilecfg` reads: bytes of a row, and rows, of each register.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Registers 0 and 1 are sums; 2, 3 and 6 columns; 4, 5 and 7 lines of weights: of 32 inputs, the last two of 64.
static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 32, 32, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 8, 8, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Hardware {
    /// Configures this thread's registers.
    ///
    /// # Safety
    /// AMX is available to this process.
    pub(super) unsafe fn configure() {
        // SAFETY: the caller's promise; the configuration is 64 bytes of a form that palette 1 accepts.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIGURATION, options(nostack, preserves_flags)) };
    }

    /// Gives this thread's registers back.
    ///
    /// # Safety
    /// AMX is available to this process.
    pub(super) unsafe fn release() {
        // SAFETY: the caller's promise.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

macro_rules! group {
    ($sums:tt, $columns:tt, $weights:tt; $rows:expr, $stride:expr, $lines:expr, $output:expr) => {
        asm!(
            concat!("tilezero ", $sums),
            concat!("tileloadd ", $columns, ", [{rows} + {stride} * 1]"),
            concat!("tileloadd ", $weights, ", [{lines} + {line} * 1]"),
            concat!("tdpbsud ", $sums, ", ", $columns, ", ", $weights),
            concat!("tilestored [{output} + {line} * 1], ", $sums),
            rows = in(reg) $rows,
            stride = in(reg) $stride,
            lines = in(reg) $lines,
            line = in(reg) 64usize,
            output = in(reg) $output,
            out($sums) _,
            options(nostack, preserves_flags),
        )
    };
}

impl Tiles for Hardware {
    #[inline(always)]
    unsafe fn group(half: usize, rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32) {
        // SAFETY: the caller's promise: the rows, lines and sums exist, and the registers have the shapes of
        // `CONFIGURATION`.
        unsafe {
            if half == 0 {
                group!("tmm0", "tmm2", "tmm4"; rows, stride, lines, sums);
            } else {
                group!("tmm1", "tmm3", "tmm5"; rows, stride, lines, sums);
            }
        }
    }

    #[inline(always)]
    unsafe fn span(rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32) {
        // SAFETY: as `group`.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tileloadd tmm6, [{rows} + {stride} * 1]",
                "tileloadd tmm7, [{lines} + {line} * 1]",
                "tdpbsud tmm0, tmm6, tmm7",
                "tileloadd tmm6, [{rows} + {stride} * 1 + 64]",
                "tileloadd tmm7, [{lines} + {line} * 1 + 1024]",
                "tdpbsud tmm0, tmm6, tmm7",
                "tilestored [{output} + {line} * 1], tmm0",
                rows = in(reg) rows,
                stride = in(reg) stride,
                lines = in(reg) lines,
                line = in(reg) 64usize,
                output = in(reg) sums,
                out("tmm0") _,
                out("tmm6") _,
                out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// What the processor says about AMX: registers, and their int8 products.
fn described() -> (bool, bool) {
    if !is_x86_feature_detected!("avx512f") || __cpuid(0).eax < 0x1d {
        return (false, false);
    }
    let features = __cpuid_count(7, 0).edx;
    let palette = __cpuid_count(0x1d, 1);
    // 8 registers of 16 rows of 64 bytes.
    let shaped = palette.ebx == 8 << 16 | 64 && palette.ecx & 0xffff == 16;
    (features >> 24 & 1 == 1 && shaped && saves_tiles(), features >> 25 & 1 == 1)
}

/// Whether the operating system saves the configuration and the data of tiles (bits 17 and 18 of XCR0).
fn saves_tiles() -> bool {
    let low: u32;
    // SAFETY: AVX-512 was detected, so the operating system has enabled XGETBV.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags))
    };
    low >> 17 & 3 == 3
}

/// Asks the kernel for the tile data, which it gives to a process that asks.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: usize = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: the call takes two numbers and touches no memory of ours; the kernel may change rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Whether this process has tile registers. Asks for them the first time.
pub(in crate::kernels) fn has_tiles() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| described().0 && permitted())
}

/// Whether they multiply int8, and as they should.
pub(in crate::kernels) fn has_int8() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let vnni = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw");
        // SAFETY: all of it was detected just now.
        has_tiles()
            && described().1
            && vnni
            && unsafe {
                Hardware::configure();
                let agrees = super::amx::agrees::<Hardware>();
                Hardware::release();
                agrees
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same products, written as the manual defines `tdpbsud`.
    struct Software;

    /// # Safety
    /// As [`Tiles::group`], with `width` inputs.
    unsafe fn product(width: usize, rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32) {
        for (column, row) in (0..16).flat_map(|column| (0..16).map(move |row| (column, row))) {
            // SAFETY: the caller's promise.
            let products = (0..width).map(|k| unsafe {
                let input = *rows.add(column * stride + k);
                let weight = *lines.add(k / 4 * 64 + row * 4 + k % 4);
                i32::from(input) * i32::from(weight)
            });
            // SAFETY: as above.
            unsafe { *sums.add(column * 16 + row) = products.sum() };
        }
    }

    impl Tiles for Software {
        unsafe fn group(_half: usize, rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32) {
            // SAFETY: the caller's promise.
            unsafe { product(32, rows, stride, lines, sums) }
        }

        unsafe fn span(rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32) {
            // SAFETY: the caller's promise.
            unsafe { product(128, rows, stride, lines, sums) }
        }
    }

    #[test]
    fn the_walk_over_tiles_gives_the_bits_of_avx512() {
        if !is_x86_feature_detected!("avx512vnni") || !is_x86_feature_detected!("avx512bw") {
            eprintln!("skipped: this machine has no AVX-512 VNNI to compare with");
            return;
        }
        // SAFETY: the features were detected, and the software needs no tiles.
        assert!(unsafe { super::super::amx::agrees::<Software>() });
    }

    #[test]
    fn the_configuration_is_what_the_instruction_reads() {
        assert_eq!(size_of::<Configuration>(), 64);
        assert_eq!(std::mem::offset_of!(Configuration, row_bytes), 16);
        assert_eq!(std::mem::offset_of!(Configuration, rows), 48);
    }
}
