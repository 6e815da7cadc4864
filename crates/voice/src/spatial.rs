//! Where voices seem to come from: panning and distance.

/// A place in metres: `x` to the right, `y` up and `z` ahead of a listener who has not turned.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Position {
    /// To the right.
    pub x: f32,
    /// Up.
    pub y: f32,
    /// Ahead.
    pub z: f32,
}

/// Who hears.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Listener {
    /// Where.
    pub position: Position,
    /// Turned to the right by so many radians; 0 looks along `z`.
    pub yaw: f32,
}

/// How distance and direction are heard.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SpatialConfig {
    /// See [`with_distances`](Self::with_distances).
    pub reference_m: f32,
    /// See [`with_distances`](Self::with_distances).
    pub farthest_m: f32,
    /// See [`with_rolloff`](Self::with_rolloff).
    pub rolloff: f32,
    /// See [`with_width`](Self::with_width).
    pub width: f32,
}

impl Default for SpatialConfig {
    fn default() -> Self {
        Self {
            reference_m: 1.0,
            farthest_m: 50.0,
            rolloff: 1.0,
            width: 0.9,
        }
    }
}

impl SpatialConfig {
    /// The distance within which a voice is as loud as it came, and the one beyond which it gets no
    /// quieter. Default 1 m and 50 m; above 0 and in this order, else they are taken so.
    #[must_use]
    pub fn with_distances(mut self, reference_m: f32, farthest_m: f32) -> Self {
        self.reference_m = reference_m.max(0.01);
        self.farthest_m = farthest_m.max(self.reference_m);
        self
    }

    /// How fast voices get quieter: 1 halves them with each doubling of the distance, as in the open; 0 does not. Default 1; 0
    /// to 4.
    #[must_use]
    pub fn with_rolloff(mut self, rolloff: f32) -> Self {
        self.rolloff = rolloff.clamp(0.0, 4.0);
        self
    }

    /// How far to the side a voice beside the listener is: 1 is in one ear only, 0 in both alike. Default 0.9.
    #[must_use]
    pub fn with_width(mut self, width: f32) -> Self {
        self.width = width.clamp(0.0, 1.0);
        self
    }

    /// The gains of the left and the right ear for a voice at `position`: equal power over the
    /// direction, inverse distance between the bounds. 1 and 1 in front at the reference distance, and for a place
    /// that is no number.
    pub fn gains(&self, listener: &Listener, position: &Position) -> [f32; 2] {
        let (ear, voice) = (&listener.position, position);
        let (x, y, z) = (voice.x - ear.x, voice.y - ear.y, voice.z - ear.z);
        let distance = (x * x + y * y + z * z).sqrt();
        let (sin, cos) = listener.yaw.sin_cos();
        let right = x * cos - z * sin;
        if !(distance.is_finite() && right.is_finite()) {
            return [1.0, 1.0];
        }
        let beyond = distance.clamp(self.reference_m, self.farthest_m) - self.reference_m;
        let gain = self.reference_m / (self.reference_m + self.rolloff * beyond);
        // Right at the listener a voice has no direction: it must not jump from ear to ear.
        let pan = self.width * right / distance.max(self.reference_m);
        let angle = (pan.clamp(-1.0, 1.0) + 1.0) * std::f32::consts::FRAC_PI_4;
        let (right, left) = angle.sin_cos();
        [left, right].map(|ear| ear * std::f32::consts::SQRT_2 * gain)
    }
}

/// Where one voice is put, changed without a click.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    pub(crate) current: [f32; 2],
    pub(crate) target: [f32; 2],
}

impl Default for Placement {
    fn default() -> Self {
        Self::CENTRE
    }
}

impl Placement {
    /// In both ears, as loud as it came.
    pub const CENTRE: Self = Self {
        current: [1.0, 1.0],
        target: [1.0, 1.0],
    };

    /// Goes to these gains of the left and the right ear, from [`SpatialConfig::gains`], within the next
    /// block. What is no number counts as 1.
    pub fn set(&mut self, gains: [f32; 2]) {
        self.target = gains.map(|gain| {
            if gain.is_nan() {
                1.0
            } else {
                gain.clamp(0.0, 8.0)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f32, z: f32) -> [f32; 2] {
        let position = Position { x, y: 0.0, z };
        SpatialConfig::default().gains(&Listener::default(), &position)
    }

    #[test]
    fn direction_moves_a_voice_between_the_ears_at_equal_power() {
        assert!(at(0.0, 1.0).iter().all(|ear| (ear - 1.0).abs() < 1e-6));
        let [left, right] = at(1.0, 0.0);
        assert!(right > 1.3 && left < 0.15, "{left} {right}");
        for degrees in 0_u16..360 {
            let (x, z) = f32::from(degrees).to_radians().sin_cos();
            let [left, right] = at(x, z);
            assert!((left * left + right * right - 2.0).abs() < 1e-4);
        }
        let turned = Listener {
            yaw: std::f32::consts::FRAC_PI_2,
            ..Listener::default()
        };
        let ahead = Position {
            x: 1.0,
            y: 0.0,
            z: 0.0,
        };
        let [left, right] = SpatialConfig::default().gains(&turned, &ahead);
        assert!(
            (left - right).abs() < 1e-4,
            "who turns to a voice has it in front"
        );
    }

    #[test]
    fn distance_halves_and_stops() {
        let level = |z| at(0.0, z)[0];
        assert!((level(2.0) - 0.5).abs() < 1e-6 && (level(4.0) - 0.25).abs() < 1e-6);
        assert!((level(0.1) - 1.0).abs() < 1e-6);
        assert_eq!(level(60.0), level(50.0));
        assert_eq!(at(f32::NAN, 1.0), [1.0, 1.0]);
        assert_eq!(at(f32::INFINITY, 1.0), [1.0, 1.0]);
    }
}
