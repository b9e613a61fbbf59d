//! Instruction sets: their names, their features, and how a feature is detected.
//!
//! Each feature list exists once, here: detection and `target_feature` both come from it.

use std::fmt;

/// The instruction sets that have kernels, in order of preference within an architecture, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, for any processor.
    Scalar,
    /// x86: AVX2, FMA and F16C (Haswell 2013, Zen 2017).
    Avx2,
    /// x86: VNNI, 256 bits wide, in the encoding of AVX-512 (Ice Lake 2019, Zen 4 2022): for comparison with the
    /// other encoding, since these processors have the full width too.
    Avx512Vnni256,
    /// x86: VNNI, 256 bits wide, in the encoding of AVX-VNNI (Alder Lake 2021, Zen 5 2024).
    AvxVnni,
    /// x86: AVX-512 with byte and word instructions (Skylake-X 2017).
    Avx512Bw,
    /// x86: AVX-512 with VNNI (Ice Lake 2019, Zen 4 2022).
    Avx512Vnni,
    /// x86: AMX for int8 (Sapphire Rapids 2023), beside AVX-512 with VNNI.
    Amx,
    /// ARM: NEON as every AArch64 has it (Cortex-A72, Raspberry Pi 4).
    Neon,
    /// ARM: int8 dot products (Cortex-A76, Raspberry Pi 5).
    NeonDotprod,
    /// ARM: the int8 matrix extension (Neoverse V1, Apple M2, Cortex-A710).
    NeonI8mm,
}

/// Passes an instruction set's feature list, as one literal, to a macro.
macro_rules! with_features {
    (avx2, $then:ident!($($args:tt)*)) => { $then!("avx2,fma,f16c"; $($args)*); };
    (avx512vnni_256, $then:ident!($($args:tt)*)) => {
        $then!("avx2,fma,f16c,avx512f,avx512vl,avx512vnni"; $($args)*);
    };
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
    /// Every instruction set, in order of preference, the best last.
    pub const ALL: [Isa; 10] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::Avx512Vnni256,
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
            Isa::Avx512Vnni256 => "avx512vnni_256",
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
            Isa::Avx512Vnni256 => features!(avx512vnni_256),
            Isa::AvxVnni => features!(avxvnni),
            Isa::Avx512Bw => features!(avx512bw),
            Isa::Avx512Vnni => features!(avx512vnni),
            Isa::Amx => features!(avx512vnni ",amx-tile,amx-int8"),
            Isa::Neon => features!(neon),
            Isa::NeonDotprod => features!(neon_dotprod),
            Isa::NeonI8mm => features!(neon_i8mm),
        }
    }

    /// The same, one by one.
    pub(super) fn list(self) -> impl Iterator<Item = &'static str> {
        self.features().split(',').filter(|feature| !feature.is_empty())
    }

    /// Whether kernels for it are part of this build.
    pub fn is_built(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => cfg!(target_arch = "aarch64"),
            _ => cfg!(target_arch = "x86_64"),
        }
    }

    /// Whether its kernels read quantized columns as plain rows, too.
    pub(super) fn takes_rows(self) -> bool {
        self == Isa::Amx
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) fn has_feature(name: &str) -> bool {
    match name {
        "avx2" => is_x86_feature_detected!("avx2"),
        "avxvnni" => is_x86_feature_detected!("avxvnni"),
        "fma" => is_x86_feature_detected!("fma"),
        "f16c" => is_x86_feature_detected!("f16c"),
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512bw" => is_x86_feature_detected!("avx512bw"),
        "avx512vl" => is_x86_feature_detected!("avx512vl"),
        "avx512dq" => is_x86_feature_detected!("avx512dq"),
        "avx512vnni" => is_x86_feature_detected!("avx512vnni"),
        "amx-tile" => amx::has_tiles(),
        "amx-int8" => amx::has_int8(),
        _ => false,
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) fn has_feature(name: &str) -> bool {
    use std::arch::is_aarch64_feature_detected;
    match name {
        "neon" => is_aarch64_feature_detected!("neon"),
        "dotprod" => is_aarch64_feature_detected!("dotprod"),
        "i8mm" => is_aarch64_feature_detected!("i8mm"),
        _ => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn has_feature(_name: &str) -> bool {
    false
}

/// AMX, which the standard library does not detect, and for which Linux must be asked.
#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::sync::OnceLock;

    /// Whether this process has tile registers. Asks for them the first time.
    pub(super) fn has_tiles() -> bool {
        static ANSWER: OnceLock<bool> = OnceLock::new();
        *ANSWER.get_or_init(|| described().0 && permitted())
    }

    /// Whether they multiply int8.
    pub(super) fn has_int8() -> bool {
        has_tiles() && described().1
    }

    /// AMX as the processor describes it: registers, and their int8 products.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in Isa::ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
    }
}
