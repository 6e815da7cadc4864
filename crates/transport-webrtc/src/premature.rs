//! Data that overtakes the end of the SCTP handshake, which the core would acknowledge and lose.

use std::time::{Duration, Instant};

use crate::{flight::Early, socket::Datagram};

/// The content type of DTLS application data (RFC 6347 §4.1).
const APPLICATION_DATA: u8 = 23;
/// A record of more bytes may hold data: the least DATA chunk, which carries 1 to 4 bytes, makes an SCTP packet of 32
/// bytes (RFC 9260 §3.3.1), to which a DTLS record of AES-GCM adds 37. COOKIE-ACK makes one of 16.
const NO_DATA: usize = 68;
/// For how long data is held if the link does not open. Longer than SCTP takes to send COOKIE-ECHO again.
const PATIENCE: Duration = Duration::from_secs(4);

/// Holds back what the peer says before we know that the association is up: the peer, which has sent COOKIE-ACK, knows it
/// sooner, and may speak at once. Where that message arrives first, or COOKIE-ACK is lost, the core takes it for one
/// of a channel that does not exist. Only the DTLS client, which began the association, can be in this place.
#[derive(Debug, Default)]
pub(crate) struct Premature {
    stage: Stage,
    held: Early,
    due: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// INIT-ACK is awaited.
    #[default]
    Begun,
    /// It has come; or an INIT of a peer that begins an association as well, though it is the DTLS server. The core does
    /// not get through that collision, and we do not mend it here.
    Answered,
    /// COOKIE-ECHO has been sent.
    Echoed,
}

impl Premature {
    /// A packet goes out before the link is open.
    pub(crate) fn sent(&mut self, packet: &[u8]) {
        if self.stage == Stage::Answered && packet.first() == Some(&APPLICATION_DATA) {
            self.stage = Stage::Echoed;
        }
    }

    /// A packet has come before the link is open: keeps it, or gives it back to be read.
    pub(crate) fn hold(&mut self, now: Instant, packet: Datagram) -> Result<(), Datagram> {
        if packet.payload.first() != Some(&APPLICATION_DATA) {
            return Err(packet);
        }
        match self.stage {
            Stage::Echoed if packet.payload.len() > NO_DATA => {
                self.held.hold(packet);
                self.due.get_or_insert(now + PATIENCE);
                Ok(())
            }
            Stage::Begun => {
                self.stage = Stage::Answered;
                Err(packet)
            }
            _ => Err(packet),
        }
    }

    /// When what is held is to be read in any case.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is held, to be read.
    pub(crate) fn release(&mut self) -> Vec<Datagram> {
        self.due = None;
        self.held.release()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::now;

    fn record(kind: u8, len: usize) -> Datagram {
        let mut payload = vec![0; len];
        payload[0] = kind;
        Datagram {
            local: ([127, 0, 0, 1], 1).into(),
            remote: ([127, 0, 0, 1], 2).into(),
            payload: payload[..].into(),
        }
    }

    #[test]
    fn only_data_behind_our_cookie_waits() {
        let mut premature = Premature::default();
        let start = now();
        premature.sent(&record(APPLICATION_DATA, 120).payload); // INIT
        assert!(premature.hold(start, record(22, 300)).is_err(), "handshake");
        let init_ack = record(APPLICATION_DATA, 300);
        assert!(premature.hold(start, init_ack).is_err(), "INIT-ACK");
        premature.sent(&record(22, 90).payload);
        let again = record(APPLICATION_DATA, 300);
        assert!(premature.hold(start, again).is_err(), "before the cookie");
        premature.sent(&record(APPLICATION_DATA, 120).payload); // COOKIE-ECHO
        let data = record(APPLICATION_DATA, 69);
        assert!(premature.hold(start, data).is_ok());
        let cookie_ack = record(APPLICATION_DATA, 53);
        assert!(premature.hold(start, cookie_ack).is_err());
        assert_eq!(premature.due(), Some(start + PATIENCE));
        assert_eq!(premature.release().len(), 1);
        assert_eq!(premature.due(), None);
    }
}
