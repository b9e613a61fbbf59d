//! Instruction sets: their names, their features, and whether this machine has them.
//!
//! Each feature list exists once, here: detection and `target_feature` both come from it.

use std::fmt;

use crate::error::{Error, Result};

/// The instruction sets that have kernels, slowest first within an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// What every processor of the architecture has.
    Scalar,
    /// x86: AVX2, FMA and F16C (Haswell 2013, Zen 2017).
    Avx2,
    /// x86: AVX-VNNI, 256 bits wide (Alder Lake 2021, Zen 5 2024), or the same instruction of AVX-512.
    AvxVnni,
    /// x86: AVX-512 with byte and word instructions (Skylake-X 2017).
    Avx512Bw,
    /// x86: AVX-512 with VNNI (Ice Lake 2019, Zen 4 2022).
    Avx512Vnni,
    /// x86: AMX for int8 (Sapphire Rapids 2023), beside AVX-512 with VNNI.
    Amx,
    /// ARM: what every AArch64 has (Cortex-A72, Raspberry Pi 4).
    Neon,
    /// ARM: int8 dot products (Cortex-A76, Raspberry Pi 5).
    NeonDotprod,
    /// ARM: the int8 matrix extension (Neoverse V1, Apple M2, Cortex-A710).
    NeonI8mm,
}

/// Passes an instruction set's feature list, as one literal, to a macro.
macro_rules! with_features {
    (avx2, $then:ident!($($args:tt)*)) => { $then!("avx2,fma,f16c"; $($args)*); };
    (avxvnni, $then:ident!($($args:tt)*)) => { $then!("avx2,fma,f16c,avxvnni"; $($args)*); };
    (avx512bw, $then:ident!($($args:tt)*)) => {
        $then!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq"; $($args)*);
    };
    (avx512vnni, $then:ident!($($args:tt)*)) => {
        $then!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"; $($args)*);
    };
    (neon, $then:ident!($($args:tt)*)) => { $then!("neon"; $($args)*); };
    (neon_dotprod, $then:ident!($($args:tt)*)) => { $then!("neon,dotprod"; $($args)*); };
    (neon_i8mm, $then:ident!($($args:tt)*)) => { $then!("neon,i8mm"; $($args)*); };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use with_features;

/// The list that [`with_features`] gives, as text.
macro_rules! features {
    ($isa:ident $($more:literal)?) => {{
        macro_rules! text {
            ($text:literal;) => {
                const FEATURES: &str = concat!($text $(, $more)?);
            };
        }
        with_features!($isa, text!());
        FEATURES
    }};
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Isa; 9] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::AvxVnni,
        Isa::Avx512Bw,
        Isa::Avx512Vnni,
        Isa::Amx,
        Isa::Neon,
        Isa::NeonDotprod,
        Isa::NeonI8mm,
    ];

    /// The name in `CINDERBLOCK_ISA`, logs and benchmarks.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512Bw => "avx512bw",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "neon_dotprod",
            Isa::NeonI8mm => "neon_i8mm",
        }
    }

    /// The instruction set with a name.
    pub fn from_name(name: &str) -> Option<Isa> {
        Self::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// The processor features that the kernels use, separated by commas.
    pub fn features(self) -> &'static str {
        match self {
            Isa::Scalar => "",
            Isa::Avx2 => features!(avx2),
            Isa::AvxVnni => features!(avxvnni),
            Isa::Avx512Bw => features!(avx512bw),
            Isa::Avx512Vnni => features!(avx512vnni),
            Isa::Amx => features!(avx512vnni ",amx-tile,amx-int8"),
            Isa::Neon => features!(neon),
            Isa::NeonDotprod => features!(neon_dotprod),
            Isa::NeonI8mm => features!(neon_i8mm),
        }
    }

    /// Whether kernels for it are part of this build.
    pub fn is_built(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Bw | Isa::Avx512Vnni | Isa::Amx => {
                cfg!(target_arch = "x86_64")
            }
            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => cfg!(target_arch = "aarch64"),
        }
    }

    /// The features that this machine, or its operating system, lacks; `None` if it is not part of this build.
    pub fn missing_features(self) -> Option<Vec<&'static str>> {
        self.is_built().then(|| {
            let features = self.features().split(',').filter(|feature| !feature.is_empty());
            features.filter(|feature| !has_feature(feature)).collect()
        })
    }

    /// The features that any instruction set asks for and that this machine has.
    pub fn detected_features() -> Vec<&'static str> {
        let mut found = Vec::new();
        for isa in Self::ALL.into_iter().filter(|isa| isa.is_built()) {
            for feature in isa.features().split(',') {
                if has_feature(feature) && !found.contains(&feature) {
                    found.push(feature);
                }
            }
        }
        found
    }

    /// Whether its kernels read quantized columns as plain rows, too.
    pub(super) fn takes_rows(self) -> bool {
        self == Isa::Amx
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        self.missing_features().is_some_and(|missing| missing.is_empty())
    }

    /// The instruction set to use: the best one there is, or the one that the environment variable
    /// `CINDERBLOCK_ISA` names.
    ///
    /// # Errors
    /// If the variable names one that does not exist or that this machine cannot run.
    pub fn choose() -> Result<Isa> {
        let Some(name) = std::env::var_os("CINDERBLOCK_ISA").filter(|name| !name.is_empty()) else {
            let best = Self::ALL.into_iter().rev().find(|isa| isa.is_available());
            return Ok(best.unwrap_or(Isa::Scalar));
        };
        let name = name.to_string_lossy();
        let isa = Self::from_name(&name).ok_or_else(|| {
            let names = Self::ALL.map(Isa::name).join(", ");
            Error::argument(format!("CINDERBLOCK_ISA: found {name:?}, expected one of {names}"))
        })?;
        match isa.missing_features() {
            Some(missing) if missing.is_empty() => Ok(isa),
            Some(missing) => Err(Error::argument(format!(
                "CINDERBLOCK_ISA={name}: this processor lacks {}",
                missing.join(", ")
            ))),
            None => Err(Error::argument(format!(
                "CINDERBLOCK_ISA={name}: not an instruction set of this architecture"
            ))),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_feature(name: &str) -> bool {
    match name {
        "avx2" => is_x86_feature_detected!("avx2"),
        // The same instruction in two encodings; `x86_64::avx_vnni` takes the one that exists.
        "avxvnni" => is_x86_feature_detected!("avxvnni") || has_avx512_vnni_at_256_bits(),
        "fma" => is_x86_feature_detected!("fma"),
        "f16c" => is_x86_feature_detected!("f16c"),
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512bw" => is_x86_feature_detected!("avx512bw"),
        "avx512vl" => is_x86_feature_detected!("avx512vl"),
        "avx512dq" => is_x86_feature_detected!("avx512dq"),
        "avx512vnni" => is_x86_feature_detected!("avx512vnni"),
        "amx-tile" => super::x86_64::amx_tile(),
        "amx-int8" => super::x86_64::amx_int8(),
        _ => false,
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_vnni_at_256_bits() -> bool {
    is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl")
}

#[cfg(target_arch = "aarch64")]
fn has_feature(name: &str) -> bool {
    use std::arch::is_aarch64_feature_detected;
    match name {
        "neon" => is_aarch64_feature_detected!("neon"),
        "dotprod" => is_aarch64_feature_detected!("dotprod"),
        "i8mm" => is_aarch64_feature_detected!("i8mm"),
        _ => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_feature(_name: &str) -> bool {
    false
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_is_always_there_and_names_round_trip() {
        assert!(Isa::Scalar.is_available());
        for isa in Isa::ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
    }
}
