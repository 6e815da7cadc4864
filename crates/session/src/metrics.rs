//! What a session can tell about itself.

use roundtable_core::{MetricsVisitor, Observe};

use crate::{Session, event::Standing, links::Link};

/// Counters since the session began, wrapping at 2^64.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Links given up because of what their peers did or left undone.
    pub(crate) refused_links: u64,
    /// Elided frames that could not be restored.
    pub(crate) misread_frames: u64,
    /// Frames dropped on links that are gone: too early, or not for a guest.
    pub(crate) dropped_frames: u64,
    /// Submissions that were refused because the queue or the budget had no room.
    pub(crate) rate_limited: u64,
    /// Submissions that filled a frame, so that it was signed before the flush interval was over.
    pub(crate) filled: u64,
    /// How often signing was put off because the budget was spent.
    pub(crate) deferred: u64,
    /// Signatures that were verified and brought nothing into the log.
    pub(crate) unused_verifications: u64,
    /// Frames dropped because their peers had sent too much that brought nothing.
    pub(crate) overrun_frames: u64,
    /// Frames that a repetition has brought before their first sending did.
    pub(crate) used_repetitions: u64,
    /// Snapshots, made here or by peers, that are longer than anyone fetches.
    pub(crate) oversized_snapshots: u64,
}

impl Counters {
    pub(crate) fn link_refused(&mut self) {
        self.refused_links = self.refused_links.wrapping_add(1);
    }

    pub(crate) fn misread(&mut self) {
        self.misread_frames = self.misread_frames.wrapping_add(1);
    }

    pub(crate) fn rate_limited(&mut self) {
        self.rate_limited = self.rate_limited.wrapping_add(1);
    }

    pub(crate) fn filled(&mut self) {
        self.filled = self.filled.wrapping_add(1);
    }

    pub(crate) fn deferred(&mut self) {
        self.deferred = self.deferred.wrapping_add(1);
    }

    pub(crate) fn unused(&mut self) {
        self.unused_verifications = self.unused_verifications.wrapping_add(1);
    }

    pub(crate) fn overrun(&mut self) {
        self.overrun_frames = self.overrun_frames.wrapping_add(1);
    }

    pub(crate) fn repetition_used(&mut self) {
        self.used_repetitions = self.used_repetitions.wrapping_add(1);
    }

    pub(crate) fn snapshot_oversized(&mut self) {
        self.oversized_snapshots = self.oversized_snapshots.wrapping_add(1);
    }

    pub(crate) fn link_gone(&mut self, link: &Link) {
        self.dropped_frames = self.dropped_frames.wrapping_add(link.dropped);
    }
}

impl Observe for Session {
    #[allow(clippy::cast_precision_loss)] // gauges are for people
    fn observe(&self, visitor: &mut dyn MetricsVisitor) {
        let links = |standing: fn(&Standing) -> bool| {
            let links = self.links.iter();
            links.filter(|(_, link)| standing(&link.standing())).count() as f64
        };
        let standings = [
            ("handshaking", links(|s| *s == Standing::Handshaking)),
            ("member", links(|s| matches!(s, Standing::Member(_)))),
            ("guest", links(|s| *s == Standing::Guest)),
        ];
        for (standing, count) in standings {
            visitor.gauge("session_links", &[("standing", standing)], count);
        }
        let Counters {
            refused_links,
            misread_frames,
            dropped_frames,
            rate_limited,
            filled,
            deferred,
            unused_verifications,
            overrun_frames,
            used_repetitions,
            oversized_snapshots,
        } = self.counters;
        let dropped = self.links.iter().fold(dropped_frames, |sum, (_, link)| {
            sum.wrapping_add(link.dropped)
        });
        visitor.counter("session_refused_links", &[], refused_links);
        visitor.counter("session_misread_frames", &[], misread_frames);
        visitor.counter("session_dropped_frames", &[], dropped);
        visitor.counter("session_rate_limited_submissions", &[], rate_limited);
        visitor.counter("session_full_frames", &[], filled);
        visitor.counter("session_deferred_signings", &[], deferred);
        visitor.counter("session_unused_verifications", &[], unused_verifications);
        visitor.counter("session_overrun_frames", &[], overrun_frames);
        visitor.counter("session_used_repetitions", &[], used_repetitions);
        visitor.counter("session_oversized_snapshots", &[], oversized_snapshots);
        let (conversations, waiting, unread) = self.messages.totals();
        visitor.gauge("session_conversations", &[], conversations as f64);
        visitor.gauge("session_waiting_message_bytes", &[], waiting as f64);
        visitor.gauge("session_unread_message_bytes", &[], unread as f64);
        let queued = self.submissions.len() as f64;
        visitor.gauge("session_queued_commands", &[], queued);
        let rate = self.signing_rate.per_second();
        visitor.gauge("session_signed_commands_per_second", &[], rate);
        let unjudged = self.arrivals.len() as f64;
        visitor.gauge("session_unjudged_frames", &[], unjudged);
        let ahead = self.clock_ahead_ms() as f64;
        visitor.gauge("session_clock_ahead_ms", &[], ahead);
        if let Some(age) = self.checkpoints.age() {
            visitor.gauge("session_checkpoint_age_seconds", &[], age.as_secs_f64());
        }
        if let Some(log) = self.log() {
            log.observe(visitor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_wrap() {
        let mut counters = Counters {
            refused_links: u64::MAX,
            rate_limited: u64::MAX,
            deferred: u64::MAX,
            ..Counters::default()
        };
        counters.link_refused();
        counters.rate_limited();
        counters.deferred();
        let Counters {
            refused_links,
            rate_limited,
            deferred,
            ..
        } = counters;
        assert_eq!([refused_links, rate_limited, deferred], [0; 3]);
    }
}
