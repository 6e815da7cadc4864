//! What listeners report of loss, smoothed.

/// How fast a rise is believed, a report at a time: protection that comes late is of no use.
const RISE: f32 = 0.4;
/// And a fall.
const FALL: f32 = 0.1;

/// One listener's reports (RFC 3550 §6.4.1: the fraction lost since the last one), about one a second, as a share of loss
/// to prepare for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossEstimate(f32);

impl LossEstimate {
    /// No loss.
    pub const fn new() -> Self {
        Self(0.0)
    }

    /// Takes a report, 0 to 1 (clamped; what is no number is ignored).
    pub fn report(&mut self, loss: f32) {
        if loss.is_nan() {
            return;
        }
        let loss = loss.clamp(0.0, 1.0);
        let pace = if loss > self.0 { RISE } else { FALL };
        self.0 += (loss - self.0) * pace;
    }

    /// The share of loss to prepare for, 0 to 1.
    pub fn get(self) -> f32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_is_followed_within_seconds_and_one_lost_packet_is_soon_forgotten() {
        let mut estimate = LossEstimate::new();
        (0..4).for_each(|_| estimate.report(0.2));
        assert!(estimate.get() > 0.15, "{}", estimate.get());
        (0..40).for_each(|_| estimate.report(0.0));
        assert!(estimate.get() < 0.005);
        estimate.report(0.02);
        assert!(estimate.get() < 0.015, "one packet of fifty");
        estimate.report(f32::NAN);
        estimate.report(f32::INFINITY);
        assert!(estimate.get() <= 1.0);
    }
}
