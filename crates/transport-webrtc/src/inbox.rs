//! What has arrived and waits for the link's user.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use roundtable_core::Frame;
use roundtable_transport::Closed;
use tokio::sync::Notify;

/// Data messages that wait at most, whatever their size.
const MAX_MESSAGES: usize = 1024;
/// Data messages taken in one round, so that a flood does not keep the driver from sending.
const ROUND: usize = 64;

/// Two bounded queues. Data is never dropped: when its queue is full the driver stops reading. Of
/// media the oldest is dropped.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
    freed: Notify,
    max_bytes: usize,
    max_media: usize,
}

#[derive(Debug, Default)]
struct State {
    data: VecDeque<Frame>,
    data_bytes: usize,
    media: VecDeque<Frame>,
    closed: Option<Closed>,
}

impl Inbox {
    pub(crate) fn new(max_bytes: usize, max_media: usize) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            freed: Notify::new(),
            max_bytes,
            max_media,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many data messages may be pushed now. The bytes are looked at only here, so the queue
    /// may go over by one round.
    pub(crate) fn room(&self) -> usize {
        let state = self.state();
        if state.data_bytes >= self.max_bytes {
            return 0;
        }
        MAX_MESSAGES.saturating_sub(state.data.len()).min(ROUND)
    }

    /// Waits until there may be room again.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Queues a frame; returns the media frame that had to go for it. After the close, frames are
    /// dropped silently.
    pub(crate) fn push(&self, frame: Frame) -> Option<Frame> {
        let mut state = self.state();
        if state.closed.is_some() {
            return None;
        }
        let mut dropped = None;
        if frame.channel.is_media() {
            if state.media.len() >= self.max_media {
                dropped = state.media.pop_front();
            }
            state.media.push_back(frame);
        } else {
            state.data_bytes += frame.payload_len();
            state.data.push_back(frame);
        }
        drop(state);
        self.arrived.notify_one();
        dropped
    }

    /// Ends the inbox: what is in it is still handed out. The first reason counts.
    pub(crate) fn close(&self, closed: Closed) {
        self.state().closed.get_or_insert(closed);
        self.arrived.notify_waiters();
    }

    /// Why the link has closed, if it has.
    pub(crate) fn closed(&self) -> Option<Closed> {
        self.state().closed.clone()
    }

    /// The next frame, media first: it ages.
    fn pop(&self) -> Option<Result<Frame, Closed>> {
        let mut state = self.state();
        if let Some(frame) = state.media.pop_front() {
            return Some(Ok(frame));
        }
        let Some(frame) = state.data.pop_front() else {
            return state.closed.clone().map(Err);
        };
        state.data_bytes -= frame.payload_len();
        drop(state);
        self.freed.notify_one();
        Some(Ok(frame))
    }

    /// Waits for the next frame. Cancel safe; several may wait.
    pub(crate) async fn recv(&self) -> Result<Frame, Closed> {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if let Some(next) = self.pop() {
                return next;
            }
            arrived.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roundtable_core::{Channel, CloseCode, MediaCodec, MediaPacket};

    fn voice(sequence: u16) -> Frame {
        Frame::media(
            Channel::Voice,
            MediaPacket {
                sequence,
                timestamp: 0,
                marker: false,
                codec: MediaCodec::Opus,
                payload: [0_u8][..].into(),
            },
        )
    }

    #[tokio::test]
    async fn media_drops_the_oldest_and_data_asks_for_a_pause() {
        let inbox = Inbox::new(100, 2);
        assert_eq!(inbox.push(voice(1)), None);
        assert_eq!(inbox.push(voice(2)), None);
        assert_eq!(inbox.push(voice(3)), Some(voice(1)));
        inbox.push(Frame::binary(Channel::App, vec![0; 100]));
        assert_eq!(inbox.room(), 0);
        assert_eq!(inbox.recv().await, Ok(voice(2)));
        assert_eq!(inbox.recv().await, Ok(voice(3)));
        assert_eq!(inbox.recv().await.map(|f| f.channel), Ok(Channel::App));
        inbox.freed().await;
        assert_eq!(inbox.room(), ROUND);
    }

    #[tokio::test]
    async fn what_came_before_the_close_is_handed_out() {
        let inbox = Inbox::new(100, 2);
        inbox.push(voice(1));
        let closed = |code| Closed::new(code, "", false);
        inbox.close(closed(CloseCode::REPLACED));
        inbox.close(closed(CloseCode::LOST));
        inbox.push(voice(2));
        assert_eq!(inbox.recv().await, Ok(voice(1)));
        assert_eq!(inbox.recv().await, Err(closed(CloseCode::REPLACED)));
    }
}
