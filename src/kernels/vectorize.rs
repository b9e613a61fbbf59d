//! Loops of other modules, compiled for the registers of this processor.

use std::sync::OnceLock;

use super::isa::Isa;

/// A computation over arrays of floats, which the compiler turns into vector registers.
///
/// `run` and all that it calls must be `#[inline(always)]`: what is not inlined is compiled without the features of
/// the instruction set.
pub trait Vectorized {
    /// The result.
    type Output;
    /// Computes it; `FMA` says whether `mul_add` is one instruction (without it, it is a library call).
    fn run<const FMA: bool>(self) -> Self::Output;
}

/// Runs a computation compiled for the widest registers of the instruction set that [`Isa::choose`] chooses.
pub fn vectorize<V: Vectorized>(work: V) -> V::Output {
    static CHOSEN: OnceLock<Isa> = OnceLock::new();
    match *CHOSEN.get_or_init(|| Isa::choose().unwrap_or(Isa::Scalar)) {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512Vnni256 | Isa::AvxVnni => {
            // SAFETY: an instruction set that was chosen is available, and so are those it contains.
            unsafe { avx2::run(work) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bw | Isa::Avx512Vnni | Isa::Amx => {
            // SAFETY: as above.
            unsafe { avx512::run(work) }
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => work.run::<true>(),
        _ => work.run::<false>(),
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! run {
    ($features:literal;) => {
        #[target_feature(enable = $features)]
        pub unsafe fn run<V: super::Vectorized>(work: V) -> V::Output {
            work.run::<true>()
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use crate::kernels::isa::with_features;
    with_features!(avx2, run!());
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use crate::kernels::isa::with_features;
    with_features!(avx512bw, run!());
}
