//! Set-up packets that the core would lose: what arrives before it can be used, and what must be
//! sent again because the core forgets to.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::socket::Datagram;

/// Packets held back at most.
const MAX_EARLY: usize = 32;
/// Packets of one flight; a full certificate flight has five.
const MAX_FLIGHT: usize = 8;
/// Silence after which the last flight is sent again, at first and at most.
const FIRST_WAIT: Duration = Duration::from_millis(150);
const LAST_WAIT: Duration = Duration::from_millis(1200);

/// What a packet is, by its first byte (RFC 7983 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stun,
    Dtls,
    /// SRTP or SRTCP.
    Srtp,
    Unknown,
}

impl Kind {
    pub(crate) fn of(packet: &[u8]) -> Self {
        match packet.first() {
            Some(0..=3) => Self::Stun,
            Some(20..=63) => Self::Dtls,
            Some(128..=191) => Self::Srtp,
            _ => Self::Unknown,
        }
    }
}

/// Packets that overtook what they need: the core drops them, at the price of a retransmission
/// timer of 1 s. When full, later ones are dropped.
#[derive(Debug, Default)]
pub(crate) struct Early {
    packets: Vec<Datagram>,
}

impl Early {
    pub(crate) fn hold(&mut self, packet: Datagram) {
        if self.packets.len() < MAX_EARLY {
            self.packets.push(packet);
        }
    }

    pub(crate) fn release(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.packets)
    }
}

/// Our last DTLS flight, sent again after silence (RFC 6347 §4.2.4).
///
/// The core's own timer is disarmed by any handshake packet, even when the peer's flight is not
/// complete; then both sides wait for ever. An identical copy of a packet that was lost is no
/// replay, and of one that was not, is dropped as one.
#[derive(Debug)]
pub(crate) struct Flight {
    packets: Vec<Datagram>,
    answered: bool,
    wait: Duration,
    due: Option<Instant>,
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            packets: Vec::new(),
            answered: true,
            wait: FIRST_WAIT,
            due: None,
        }
    }
}

impl Flight {
    /// We sent a DTLS packet.
    pub(crate) fn sent(&mut self, now: Instant, packet: &Datagram) {
        if self.answered {
            self.packets.clear();
            self.answered = false;
            self.wait = FIRST_WAIT;
        }
        if self.packets.len() < MAX_FLIGHT {
            self.packets.push(packet.clone());
        }
        self.due = Some(now + self.wait);
    }

    /// The peer sent a DTLS packet.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.answered = true;
        self.wait = FIRST_WAIT;
        self.due = (!self.packets.is_empty()).then(|| now + self.wait);
    }

    /// When [`repeat`](Self::repeat) is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Sends the flight again if it is due.
    pub(crate) fn repeat(&mut self, now: Instant, out: &mut VecDeque<Datagram>) {
        if self.due.is_some_and(|due| due <= now) {
            out.extend(self.packets.iter().cloned());
            self.wait = (self.wait * 2).min(LAST_WAIT);
            self.due = Some(now + self.wait);
        }
    }

    /// The handshake is over.
    pub(crate) fn finish(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roundtable_core::Clock;
    use roundtable_transport::SystemClock;

    fn packet(byte: u8) -> Datagram {
        Datagram {
            local: ([127, 0, 0, 1], 1).into(),
            remote: ([127, 0, 0, 1], 2).into(),
            payload: [byte][..].into(),
        }
    }

    fn repeated(flight: &mut Flight, now: Instant) -> Vec<u8> {
        let mut out = VecDeque::new();
        flight.repeat(now, &mut out);
        out.iter().map(|packet| packet.payload[0]).collect()
    }

    #[test]
    fn the_last_flight_is_repeated_even_after_part_of_the_answer() {
        let start = SystemClock::instant(SystemClock.now());
        let ms = |ms| start + Duration::from_millis(ms);
        let mut flight = Flight::default();
        flight.sent(ms(0), &packet(1));
        flight.sent(ms(0), &packet(2));
        assert!(repeated(&mut flight, ms(149)).is_empty());
        assert_eq!(repeated(&mut flight, ms(150)), [1, 2]);
        // The wait doubles while nothing is heard, and starts over when something is.
        assert!(repeated(&mut flight, ms(300)).is_empty());
        flight.heard(ms(310));
        assert_eq!(repeated(&mut flight, ms(460)), [1, 2]);
        // What follows an answer is the next flight.
        flight.sent(ms(470), &packet(3));
        assert_eq!(repeated(&mut flight, ms(620)), [3]);
        flight.finish();
        assert_eq!(flight.due(), None);
    }
}
