//! Sound of several peers, frame by frame, from about the same moment.

use roundtable_core::{PeerId, Timestamp};

use crate::{SyncManager, SyncedFrame, manager::Due};

/// Frames from farther apart than this are not of one moment, in microseconds.
const ALIGNED_US: i64 = 100_000;

/// Pops at most one frame of sound from each peer, all due at `now` and captured within 100 ms of each
/// other.
///
/// Moments are compared by when the fastest packet of each peer would have brought them, so peers'
/// wall clocks need not agree. The oldest frame that is due sets the pace: newer ones wait for it, for
/// up to [`SyncConfig::max_hold`](crate::SyncConfig::max_hold) beyond their time. After that they set
/// the pace, and what is older is skipped, so that one slow peer does not hold the others up.
pub fn collect_aligned_frames<'a, A: 'a, V: 'a>(
    now: Timestamp,
    peers: impl IntoIterator<Item = &'a mut SyncManager<A, V>>,
) -> Vec<(PeerId, SyncedFrame<A>)> {
    let mut due: Vec<(&mut SyncManager<A, V>, Due)> = peers
        .into_iter()
        .filter_map(|peer| peer.due_instant_us(now).map(|due| (peer, due)))
        .collect();
    let impatient = due
        .iter()
        .filter(|(peer, due)| due.waited_us > peer.max_hold_us())
        .map(|(_, due)| due.instant_us)
        .max();
    let Some(oldest) = due
        .iter_mut()
        .filter_map(|(peer, due)| catch_up(now, peer, due, impatient))
        .min()
    else {
        return Vec::new();
    };
    due.into_iter()
        .filter(|(_, due)| (oldest..=oldest + ALIGNED_US).contains(&due.instant_us))
        .filter_map(|(peer, _)| {
            let frame = peer.pop_next_audio_frame(now)?;
            Some((peer.peer().clone(), frame))
        })
        .collect()
}

/// Skips what is too old for the peers that have waited enough. Returns the moment of what is due then.
fn catch_up<A, V>(
    now: Timestamp,
    peer: &mut SyncManager<A, V>,
    due: &mut Due,
    impatient: Option<i64>,
) -> Option<i64> {
    let oldest = impatient.map_or(i64::MIN, |instant| instant - ALIGNED_US);
    while due.instant_us < oldest {
        peer.skip_audio();
        match peer.due_instant_us(now) {
            Some(next) => *due = next,
            None => return None,
        }
    }
    Some(due.instant_us)
}
