//! The registry: which instruction sets this machine can run, and their kernels.

use std::sync::LazyLock;

#[cfg(target_arch = "aarch64")]
use super::aarch64 as platform;
use super::isa::{Isa, has_feature};
use super::scalar;
use super::table::Kernels;
#[cfg(target_arch = "x86_64")]
use super::x86_64 as platform;
use crate::error::{Error, Result};

/// No kernels but scalar ones.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod platform {
    use crate::kernels::isa::Isa;
    use crate::kernels::table::Kernels;

    pub(super) fn table(_isa: Isa) -> Option<&'static Kernels> {
        None
    }

    pub(super) fn is_trusted(_feature: &str) -> bool {
        true
    }
}

/// Whether this machine has a feature and it does what it should.
fn is_usable(feature: &str) -> bool {
    has_feature(feature) && platform::is_trusted(feature)
}

impl Isa {
    /// The features that this machine, or its operating system, lacks; `None` if it is not part of this build.
    pub fn missing_features(self) -> Option<Vec<&'static str>> {
        self.is_built().then(|| self.list().filter(|feature| !is_usable(feature)).collect())
    }

    /// The features that any instruction set asks for and that this machine has.
    pub fn detected_features() -> Vec<&'static str> {
        let mut found = Vec::new();
        for feature in Self::ALL.into_iter().filter(|isa| isa.is_built()).flat_map(Isa::list) {
            if !found.contains(&feature) && is_usable(feature) {
                found.push(feature);
            }
        }
        found
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

impl Isa {
    /// Whether the instruction set that models are run with keeps quantized columns as plain rows, too.
    pub(super) fn chosen_takes_rows() -> bool {
        static TAKES_ROWS: LazyLock<bool> = LazyLock::new(|| Isa::choose().is_ok_and(Isa::takes_rows));
        *TAKES_ROWS
    }
}

impl Kernels {
    /// The kernels of an instruction set, if this machine can run it.
    pub fn for_isa(isa: Isa) -> Option<&'static Kernels> {
        if !isa.is_available() {
            return None;
        }
        if isa == Isa::Scalar { Some(&scalar::KERNELS) } else { platform::table(isa) }
    }

    /// The kernels of every instruction set that this machine can run, in order of preference, the best last.
    pub fn all() -> impl Iterator<Item = &'static Kernels> {
        Isa::ALL.into_iter().filter_map(Self::for_isa)
    }

    /// The kernels of [`Isa::choose`].
    ///
    /// # Errors
    /// As that function.
    pub fn choose() -> Result<&'static Kernels> {
        Ok(Self::for_isa(Isa::choose()?).unwrap_or(&scalar::KERNELS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_is_always_there() {
        assert!(Isa::Scalar.is_available());
        assert_eq!(Kernels::all().next().map(Kernels::isa), Some(Isa::Scalar));
    }

    /// An instruction set that is available has kernels of its own, or dispatch would fall back silently.
    #[test]
    fn every_available_instruction_set_has_kernels() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            assert_eq!(Kernels::for_isa(isa).map(Kernels::isa), Some(isa));
        }
    }
}
