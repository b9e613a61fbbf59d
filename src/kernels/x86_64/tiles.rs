//! The tile registers of AMX, and the two products that are made with them.
//!
//! Rust's AMX intrinsics are not stable, so the instructions are written out.

use std::arch::asm;

/// The tile registers, or their model in a test.
pub(super) trait Tiles {
    /// `sums[c][r]` = the product of 32 signed inputs of column `c` with 32 unsigned weights of row `r`. `set`, 0 or 1,
    /// names a set of registers, so that two products in a row do not wait for each other.
    ///
    /// # Safety
    /// The tiles are available and configured. `rows` has 16 rows of 32 bytes that lie `stride` apart, `lines` 8 of 64
    /// (`[quad of inputs][row][4]`), and `sums` has room for `[16][16]`.
    unsafe fn group(set: usize, rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32);

    /// The same of 128 inputs.
    ///
    /// # Safety
    /// As `group`, with rows of 128 bytes and 32 lines.
    unsafe fn span(rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32);
}

/// The registers themselves.
pub(super) struct Hardware;

/// The operand of `ldtilecfg`: bytes of a row, and rows, of each register.
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

    /// Releases this thread's registers.
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
    unsafe fn group(set: usize, rows: *const i8, stride: usize, lines: *const u8, sums: *mut i32) {
        // SAFETY: the caller's promise: the rows, lines and sums exist, and the registers have the shapes of
        // `CONFIGURATION`.
        unsafe {
            if set == 0 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_the_layout_of_the_instruction() {
        assert_eq!(size_of::<Configuration>(), 64);
        assert_eq!(std::mem::offset_of!(Configuration, row_bytes), 16);
        assert_eq!(std::mem::offset_of!(Configuration, rows), 48);
    }
}
