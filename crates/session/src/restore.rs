//! A session that goes on where an earlier one of the same author ended.

use bytes::Bytes;
use roundtable_command_log::{GenesisHash, Head};

use crate::{Session, event::Now};

impl Session {
    /// Takes frames that a store has kept, before the first link; returns how many were taken.
    /// Frames that do not belong to this room are not. Signs nothing until a peer has shown, or an
    /// empty room has proven, that these are all.
    pub fn restore(&mut self, now: Now, frames: impl IntoIterator<Item = Bytes>) -> usize {
        let Some(room) = &mut self.room else { return 0 };
        let taken = room.log.restore(now.wall, frames);
        self.own_told = room.log.own_head().map_or(0, |head| head.nonce);
        let foreign = |head: &Head| head.author != self.author;
        room.firm |= room.log.heads().iter().any(foreign);
        self.settle_soon(now);
        taken
    }

    /// Geneses in whose logs this author has signed before it gave them up, in earlier sessions. None of them is
    /// adopted again: to begin its log anew would be to sign each nonce twice.
    pub fn forsake(&mut self, geneses: impl IntoIterator<Item = GenesisHash>) {
        self.given_up.forsake(geneses);
    }

    /// Signs and sends at once what waits for the end of the flush interval, as far as the budget
    /// allows. For a shell that is about to leave.
    pub fn finish(&mut self, now: Now) {
        self.submissions.hasten(now.mono);
        self.flush(now);
    }
}
