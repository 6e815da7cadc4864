//! What a link's handles and its task share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use roundtable_core::{Channel, ChannelStats, Frame, LinkStats};
use roundtable_transport::Closed;
use tokio::sync::Semaphore;

use crate::{WebRtcConfig, inbox::Inbox};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) inbox: Inbox,
    /// Bytes that may still be queued, by channel number.
    pub(crate) permits: [Arc<Semaphore>; 8],
    stats: Mutex<LinkStats>,
}

impl Shared {
    pub(crate) fn new(config: &WebRtcConfig) -> Self {
        Self {
            inbox: Inbox::new(config.receive_buffer, config.media_queue),
            permits: std::array::from_fn(|_| Arc::new(Semaphore::new(config.send_buffer))),
            stats: Mutex::default(),
        }
    }

    pub(crate) fn stats(&self) -> MutexGuard<'_, LinkStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counters of one channel.
    pub(crate) fn count(&self, channel: Channel, change: impl FnOnce(&mut ChannelStats)) {
        change(self.stats().channel_mut(channel));
    }

    pub(crate) fn count_dropped(&self, channel: Channel) {
        self.count(channel, |stats| {
            stats.dropped_frames = stats.dropped_frames.wrapping_add(1);
        });
    }

    /// Hands a frame up; of media, perhaps in place of the oldest.
    pub(crate) fn deliver(&self, frame: Frame) {
        if let Some(dropped) = self.inbox.push(frame) {
            self.count_dropped(dropped.channel);
        }
    }

    /// Ends sending and receiving. The first reason counts.
    pub(crate) fn close(&self, closed: Closed) {
        self.inbox.close(closed);
        for permits in &self.permits {
            permits.close();
        }
    }
}
