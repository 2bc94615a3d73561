//! Families of kernels, by the machine instructions they are made of.

use super::bindings as abi;

/// Which kernels serve a call.
///
/// Families differ in speed, and in rounding within the stated tolerance; what they compute is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KernelFamily {
    /// The fastest family that serves the request on the device.
    #[default]
    Auto,
    /// mma.sync and cp.async: Ampere and newer.
    Portable,
    /// wgmma and TMA: Hopper only.
    Hopper,
}

impl KernelFamily {
    pub(crate) fn to_abi(self) -> i32 {
        match self {
            Self::Auto => abi::LACUNA_FAMILY_AUTO,
            Self::Portable => abi::LACUNA_FAMILY_PORTABLE,
            Self::Hopper => abi::LACUNA_FAMILY_HOPPER,
        }
    }

    /// `None` for a number that is no family.
    pub(crate) fn from_abi(family: i32) -> Option<Self> {
        [Self::Auto, Self::Portable, Self::Hopper].into_iter().find(|known| known.to_abi() == family)
    }
}

impl std::fmt::Display for KernelFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Portable => "portable",
            Self::Hopper => "Hopper",
        })
    }
}
