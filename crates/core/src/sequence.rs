//! Arithmetic on counters that wrap (RFC 1982, RFC 3550 appendix A.1).

/// Whether the 16-bit sequence number `a` comes after `b`, by the shorter way round.
pub const fn sequence_is_newer(a: u16, b: u16) -> bool {
    a != b && a.wrapping_sub(b) < 0x8000
}

/// Turns wrapping 16- or 32-bit counters into 64-bit ones that do not wrap.
///
/// Each value is taken to be the one nearest to the highest seen so far, so reordering across a
/// wrap is harmless as long as values are less than half the range apart.
#[derive(Debug, Clone, Default)]
pub struct Unwrapper {
    highest: Option<i64>,
}

impl Unwrapper {
    /// An unwrapper that takes the first value as it is.
    pub const fn new() -> Self {
        Self { highest: None }
    }

    /// Unwraps a 16-bit value (an RTP sequence number).
    pub fn unwrap_u16(&mut self, value: u16) -> i64 {
        self.unwrap(i64::from(value), 16)
    }

    /// Unwraps a 32-bit value (an RTP timestamp).
    pub fn unwrap_u32(&mut self, value: u32) -> i64 {
        self.unwrap(i64::from(value), 32)
    }

    fn unwrap(&mut self, value: i64, bits: u32) -> i64 {
        let Some(highest) = self.highest else {
            self.highest = Some(value);
            return value;
        };
        let range = 1_i64 << bits;
        let ahead = (value - highest).rem_euclid(range);
        let unwrapped = highest
            + if ahead < range / 2 {
                ahead
            } else {
                ahead - range
            };
        self.highest = Some(highest.max(unwrapped));
        unwrapped
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reordering_across_a_wrap_keeps_the_order() {
        let mut unwrapper = Unwrapper::new();
        assert_eq!(unwrapper.unwrap_u16(65_535), 65_535);
        assert_eq!(unwrapper.unwrap_u16(1), 65_537);
        assert_eq!(unwrapper.unwrap_u16(0), 65_536);
        assert_eq!(unwrapper.unwrap_u16(65_534), 65_534);
    }

    proptest! {
        #[test]
        fn any_walk_with_small_steps_is_followed(
            start in any::<u32>(), steps in prop::collection::vec(-1000_i64..100_000, 1..200),
        ) {
            let mut unwrapper = Unwrapper::new();
            let mut truth = i64::from(start);
            unwrapper.unwrap_u32(start);
            for step in steps {
                truth += step;
                prop_assert_eq!(unwrapper.unwrap_u32(truth as u32), truth);
            }
        }

        #[test]
        fn newer_is_never_both_ways(a in any::<u16>(), b in any::<u16>()) {
            prop_assert!(!(sequence_is_newer(a, b) && sequence_is_newer(b, a)));
        }
    }
}
