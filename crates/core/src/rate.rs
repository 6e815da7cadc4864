//! Bit rates with their unit.

use std::fmt;

/// A bit rate in bits a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bitrate(u32);

impl Bitrate {
    /// From bits a second.
    pub const fn from_bps(bps: u32) -> Self {
        Self(bps)
    }

    /// From kilobits (1000 bits) a second.
    pub const fn from_kbps(kbps: u32) -> Self {
        Self(kbps.saturating_mul(1000))
    }

    /// In bits a second.
    pub const fn bps(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} kbit/s", f64::from(self.0) / 1000.0)
    }
}
