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
}

impl Counters {
    pub(crate) fn link_refused(&mut self) {
        self.refused_links = self.refused_links.wrapping_add(1);
    }

    pub(crate) fn misread(&mut self) {
        self.misread_frames = self.misread_frames.wrapping_add(1);
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
        } = self.counters;
        let dropped = self.links.iter().fold(dropped_frames, |sum, (_, link)| {
            sum.wrapping_add(link.dropped)
        });
        visitor.counter("session_refused_links", &[], refused_links);
        visitor.counter("session_misread_frames", &[], misread_frames);
        visitor.counter("session_dropped_frames", &[], dropped);
        if let Some(log) = self.log() {
            log.observe(visitor);
        }
    }
}
