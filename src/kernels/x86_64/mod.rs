//! The kernels for x86-64.
//!
//! `panel` has the walk over a panel that all share, written for a trait; `ymm` and `zmm` implement it for registers of
//! 256 and 512 bits. Without VNNI, `levels` has the one for more columns of q4, `magnitudes` that of q8. A file for each
//! instruction set compiles the walks with its features. `amx` has a walk of its own.

mod amx;
mod avx2;
mod avx512bw;
mod avx512vnni;
mod avx512vnni_256;
mod avxvnni;
mod f16c;
mod levels;
mod magnitudes;
mod panel;
mod tiles;
mod ymm;
mod zmm;

use super::isa::Isa;
use super::table::Kernels;

macro_rules! tables {
    ($($isa:ident $panels:path, $float:path;)+) => {
        /// The table of an instruction set of this architecture.
        pub(super) fn table(isa: Isa) -> Option<&'static Kernels> {
            match isa {
                $(Isa::$isa => {
                    static KERNELS: Kernels = Kernels { isa: Isa::$isa, panels: $panels, float: $float };
                    Some(&KERNELS)
                })+
                _ => None,
            }
        }
    };
}

tables! {
    Avx2 avx2::PANELS, avx2::FLOAT;
    Avx512Vnni256 avx512vnni_256::PANELS, avx512vnni_256::FLOAT;
    AvxVnni avxvnni::PANELS, avxvnni::FLOAT;
    Avx512Bw avx512bw::PANELS, avx512bw::FLOAT;
    Avx512Vnni avx512vnni::PANELS, avx512vnni::FLOAT;
    Amx amx::PANELS, avx512vnni::FLOAT;
}

/// Whether a feature that was detected does what it should.
pub(super) fn is_trusted(feature: &str) -> bool {
    feature != "amx-int8" || amx::is_trusted()
}
