//! The multiply instruction of each instruction set, from registers and without waiting for results: the limit of its
//! products, in multiply-adds a second.

use std::arch::asm;

use cinderblock::unstable::kernels::{Isa, Kernels};
use criterion::{Criterion, Throughput};

/// Rounds in a measured call; a round is twelve independent executions of the instruction.
const ROUNDS: u64 = 1000;

/// A function that executes an instruction `ROUNDS` times with each of twelve registers, which stand for `\\r`.
#[cfg(target_arch = "x86_64")]
macro_rules! repeat {
    ($instruction:literal) => {
        || {
            // SAFETY: called for instruction sets that the machine has. Only registers change, and they are named.
            unsafe {
                asm!(
                    // Leftovers in the registers may be floats that take longer.
                    ".irp r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13",
                    "vpxor xmm\\r, xmm\\r, xmm\\r",
                    ".endr",
                    "2:",
                    ".irp r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",
                    $instruction,
                    ".endr",
                    "sub rcx, 1",
                    "jnz 2b",
                    "vzeroupper",
                    inout("rcx") ROUNDS => _,
                    clobber_abi("sysv64"),
                    options(nomem, nostack),
                );
            }
        }
    };
}

/// As above.
#[cfg(target_arch = "aarch64")]
macro_rules! repeat {
    ($instruction:literal) => {
        || {
            // SAFETY: called for instruction sets that the machine has. Only registers change, and they are named.
            unsafe {
                asm!(
                    ".arch_extension dotprod",
                    ".arch_extension i8mm",
                    ".irp r, 0, 1, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27",
                    "movi v\\r\\().2d, #0",
                    ".endr",
                    "2:",
                    ".irp r, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27",
                    $instruction,
                    ".endr",
                    "subs x9, x9, 1",
                    "b.ne 2b",
                    inout("x9") ROUNDS => _,
                    clobber_abi("C"),
                    options(nomem, nostack),
                );
            }
        }
    };
}

/// The instruction that multiplies integers and the one that multiplies floats: name, multiply-adds, and what executes it.
type Instructions = [(&'static str, u64, fn()); 2];

/// Those of an instruction set. Tiles of AMX need a permission that only the library asks for.
#[cfg(target_arch = "x86_64")]
fn instructions(isa: Isa) -> Option<Instructions> {
    let float_256 = ("vfmadd231ps", 8, repeat!("vfmadd231ps ymm\\r, ymm12, ymm13") as fn());
    let float_512 = ("vfmadd231ps", 16, repeat!("vfmadd231ps zmm\\r, zmm12, zmm13") as fn());
    Some(match isa {
        Isa::Avx2 => [("vpmaddubsw", 32, repeat!("vpmaddubsw ymm\\r, ymm12, ymm13")), float_256],
        Isa::AvxVnni => [("vpdpbusd", 32, repeat!("{{vex}} vpdpbusd ymm\\r, ymm12, ymm13")), float_256],
        Isa::Avx512Vnni256 => {
            [("vpdpbusd", 32, repeat!("{{evex}} vpdpbusd ymm\\r, ymm12, ymm13")), float_256]
        }
        Isa::Avx512Bw => [("vpmaddubsw", 64, repeat!("vpmaddubsw zmm\\r, zmm12, zmm13")), float_512],
        Isa::Avx512Vnni => [("vpdpbusd", 64, repeat!("vpdpbusd zmm\\r, zmm12, zmm13")), float_512],
        _ => return None,
    })
}

/// Those of an instruction set.
#[cfg(target_arch = "aarch64")]
fn instructions(isa: Isa) -> Option<Instructions> {
    let float = ("fmla", 4, repeat!("fmla v\\r\\().4s, v0.4s, v1.4s") as fn());
    Some(match isa {
        Isa::Neon => [("smlal", 8, repeat!("smlal v\\r\\().8h, v0.8b, v1.8b")), float],
        Isa::NeonDotprod => [("sdot", 16, repeat!("sdot v\\r\\().4s, v0.16b, v1.16b")), float],
        Isa::NeonI8mm => [("usmmla", 32, repeat!("usmmla v\\r\\().4s, v0.16b, v1.16b")), float],
        _ => return None,
    })
}

pub fn peaks(criterion: &mut Criterion) {
    for isa in Kernels::all().map(Kernels::isa) {
        let mut group = criterion.benchmark_group(format!("{isa}/peak"));
        for (name, multiplies, execute) in instructions(isa).into_iter().flatten() {
            group.throughput(Throughput::Elements(12 * ROUNDS * multiplies));
            group.bench_function(name, |bencher| bencher.iter(execute));
        }
    }
}
