//! What the room tells its voice: how listeners are doing, and how loud the room wants everyone.

use std::{collections::HashMap, time::Duration};

use roundtable_command_log::{Action, Key, Strategy};
use roundtable_core::{AuthorId, PeerId};
use roundtable_session::{Session, Standing};
use roundtable_transport::Link;

use crate::links::Links;

/// The key type of volumes that a room sets: the key's bytes are an author's 32, its value is one byte, that
/// author's volume in percent (0 mutes, 100 is as it came, at most 200). Absent is 100. The last writer wins.
///
/// The schema that rooms have by default knows it; one of your own may, by
/// `.key_type(KEY_TYPE, "voice volume", Strategy::LastWriteWins)`. Any Editor may turn anyone up and down; every member's
/// client follows, and the author's own sends nothing while at 0. Guests have no author: no command turns them down, and they follow none.
pub const KEY_TYPE: u16 = 0xff01;
pub(crate) const KEY_NAME: &str = "voice volume";
pub(crate) const STRATEGY: Strategy = Strategy::LastWriteWins;

const LOUDEST_PERCENT: u8 = 200;

/// The command that sets how loud `author` is for everyone: 0 mutes, 1 is as it came, at most 2. NaN
/// counts as 0.
pub fn volume_command(author: AuthorId, volume: f32) -> Action {
    let percent = (volume.clamp(0.0, 2.0) * 100.0).round();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 200; NaN becomes 0
    Action::put(key(author), vec![percent as u8])
}

fn key(author: AuthorId) -> Key {
    Key::new(KEY_TYPE, author.as_bytes().to_vec())
}

/// How one listener is doing.
#[derive(Debug, Clone)]
pub(crate) struct ListenerReport {
    pub(crate) peer: PeerId,
    /// The share of our voice that it missed lately.
    pub(crate) loss: Option<f32>,
    pub(crate) rtt: Option<Duration>,
    /// Whether it takes repeated frames.
    pub(crate) takes_redundancy: bool,
    /// What it sent beyond what a voice is.
    pub(crate) flooded: u64,
    pub(crate) muted_for_flood: bool,
}

/// How all listeners are doing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listeners {
    pub(crate) reports: Vec<ListenerReport>,
    /// Packets that voice was too far behind for.
    pub(crate) dropped: u64,
}

impl Listeners {
    /// Looks at the first link of every peer that was admitted: others have no say in how we send.
    pub(crate) fn look(session: &Session, links: &Links) -> Self {
        let report = |view: roundtable_session::PeerView| {
            if view.standing == Standing::Handshaking {
                return None;
            }
            let link = view.links.first()?;
            let transport = &links.get(link.link)?.transport;
            let stats = transport.stats();
            Some(ListenerReport {
                loss: stats.voice_loss,
                rtt: link.rtt.or(stats.rtt),
                takes_redundancy: transport.takes_redundant_voice(),
                flooded: 0,
                muted_for_flood: false,
                peer: view.peer,
            })
        };
        Self {
            reports: session.peers().filter_map(report).collect(),
            dropped: 0,
        }
    }
}

/// How loud the room wants everyone, 1 as they come; who is not named is at 1.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RoomVolumes {
    pub(crate) own: Option<f32>,
    pub(crate) peers: HashMap<PeerId, f32>,
}

impl RoomVolumes {
    /// Reads them from the log.
    pub(crate) fn look(session: &Session, own: AuthorId) -> Self {
        let Some(log) = session.log() else {
            return Self::default();
        };
        let volume = |author| match log.get(&key(author)) {
            Some(&[percent]) => Some(f32::from(percent.min(LOUDEST_PERCENT)) / 100.0),
            _ => None,
        };
        let of_peer = |view: roundtable_session::PeerView| match view.standing {
            Standing::Member(author) => Some((view.peer, volume(author)?)),
            Standing::Handshaking | Standing::Guest => None,
        };
        Self {
            own: volume(own),
            peers: session.peers().filter_map(of_peer).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_command_holds_percent() {
        let author = AuthorId::from_bytes([7; 32]);
        for (volume, percent) in [(0.0, 0), (0.555, 56), (1.0, 100), (9.0, 200), (f32::NAN, 0)] {
            let expected = Action::put(Key::new(KEY_TYPE, vec![7; 32]), vec![percent]);
            assert_eq!(volume_command(author, volume), expected);
        }
    }
}
