//! Against pops after a loss.
//!
//! A decoder predicts from what it decoded before. After a loss that was something else, and where a loud
//! vowel ends abruptly the error can ring on ten times as loud as the voice. So for a while after a
//! loss, no frame may be much louder than those before it.

/// Frames until the decoder has found its way again.
const HEALING: u32 = 10;
/// How much louder than the recent past a frame may be while healing.
const MAX_RISE: f32 = 1.6;
/// What is quieter than this, as root mean square, is never a pop: -36 dBFS.
const HARMLESS: f32 = 0.016;
/// How much of the recent loudness is remembered from frame to frame.
const MEMORY: f32 = 0.93;
/// Samples over which the gain changes: 2.5 ms.
const RAMP: usize = 120;

#[derive(Debug, Clone)]
pub(crate) struct PopGuard {
    healing: u32,
    loudness: f32,
    gain: f32,
}

impl PopGuard {
    pub(crate) const fn new() -> Self {
        Self {
            healing: 0,
            loudness: 0.0,
            gain: 1.0,
        }
    }

    /// Notes that the next frame does not follow what the decoder knows.
    pub(crate) fn lost(&mut self) {
        self.healing = HEALING;
    }

    /// Turns a frame down where it is a pop. Without a loss shortly before, nothing is touched.
    pub(crate) fn check(&mut self, frame: &mut [f32]) {
        let energy: f32 = frame.iter().map(|x| x * x).sum();
        let level = (energy / frame.len().max(1) as f32).sqrt();
        let limit = HARMLESS.max(self.loudness * MAX_RISE);
        let gain = if self.healing > 0 && level > limit {
            limit / level
        } else {
            1.0
        };
        if self.gain < 1.0 || gain < 1.0 {
            for (i, sample) in frame.iter_mut().enumerate() {
                let way = ((i + 1) as f32 / RAMP as f32).min(1.0);
                *sample *= self.gain + (gain - self.gain) * way;
            }
        }
        self.gain = gain;
        self.loudness = (level * gain).max(self.loudness * MEMORY);
        self.healing = self.healing.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pop_after_a_loss_is_turned_down_and_a_shout_without_one_is_not() {
        for (lost, loudest) in [(false, 0.6), (true, 0.2)] {
            let mut guard = PopGuard::new();
            (0..20).for_each(|_| guard.check(&mut [0.1; 960]));
            if lost {
                guard.lost();
            }
            let mut frame = [0.6; 960];
            guard.check(&mut frame);
            assert!((frame[959] - loudest).abs() <= 0.05, "{}", frame[959]);
        }
    }

    #[test]
    fn someone_who_begins_to_speak_right_after_a_loss_is_soon_as_loud_as_ever() {
        let mut guard = PopGuard::new();
        guard.lost();
        let mut frame = [0.0; 960];
        for _ in 0..8 {
            frame = [0.3; 960];
            guard.check(&mut frame);
        }
        assert_eq!(frame[959], 0.3);
    }
}
