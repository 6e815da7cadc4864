//! The bounded queue between a link's user and whatever moves its frames.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use roundtable_core::{Channel, Delivery, Frame};
use tokio::sync::Notify;

use crate::{Closed, SendError, check_frame};

/// How much one lane of a [`FrameQueue`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Frames a channel; default 256.
    pub frames: usize,
    /// Payload bytes a channel, default 512 KiB. A lane is full once it holds this many, so that
    /// one frame of any size always fits into an empty lane.
    pub bytes: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            frames: 256,
            bytes: 512 * 1024,
        }
    }
}

/// Counters of one lane since the queue was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Frames put in.
    pub pushed_frames: u64,
    /// Payload bytes put in.
    pub pushed_bytes: u64,
    /// Frames taken out.
    pub popped_frames: u64,
    /// Payload bytes taken out.
    pub popped_bytes: u64,
    /// Frames lost because the lane was full.
    pub dropped_frames: u64,
}

/// A bounded queue of frames with one lane a channel: first in, first out within a lane; between
/// lanes the higher [`Channel::priority`] goes first.
///
/// Links use one towards the user and, as they need, some towards the network. What happens when a
/// lane is full is the caller's choice: [`try_send`](Self::try_send) refuses, [`push`](Self::push)
/// waits, [`push_newest`](Self::push_newest) drops the oldest.
#[derive(Debug, Default)]
pub struct FrameQueue {
    limits: QueueLimits,
    state: Mutex<State>,
    readable: Notify,
    writable: [Notify; Channel::ALL.len()],
}

#[derive(Debug, Default)]
struct State {
    lanes: [Lane; Channel::ALL.len()],
    closed: Option<Closed>,
}

#[derive(Debug, Default)]
struct Lane {
    frames: VecDeque<Frame>,
    bytes: usize,
    stats: LaneStats,
}

impl Lane {
    fn has_room(&self, limits: QueueLimits) -> bool {
        self.frames.len() < limits.frames && self.bytes < limits.bytes
    }

    fn push(&mut self, frame: Frame) {
        let len = frame.payload_len();
        self.bytes += len;
        self.stats.pushed_frames = self.stats.pushed_frames.wrapping_add(1);
        self.stats.pushed_bytes = self.stats.pushed_bytes.wrapping_add(len as u64);
        self.frames.push_back(frame);
    }

    fn take(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.payload_len();
        Some(frame)
    }

    fn drop_one(&mut self) {
        self.stats.dropped_frames = self.stats.dropped_frames.wrapping_add(1);
    }
}

impl FrameQueue {
    /// An empty queue.
    pub fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// [`Link::try_send`](crate::Link::try_send) into this queue: checks the frame, never waits.
    ///
    /// # Errors
    /// [`SendError::Full`], counted as a drop on an unreliable channel; the errors of
    /// [`check_frame`]; [`SendError::Closed`].
    pub fn try_send(&self, frame: Frame) -> Result<(), SendError> {
        check_frame(&frame)?;
        let channel = frame.channel;
        let Err(_refused) = self.offer(frame)? else {
            return Ok(());
        };
        if channel.delivery() == Delivery::UnreliableUnordered {
            self.lock().lane(channel).drop_one();
        }
        Err(SendError::Full(channel))
    }

    /// [`Link::send`](crate::Link::send) into this queue: checks the frame, then waits for room on
    /// a reliable channel and drops on an unreliable one. Cancel safe.
    ///
    /// # Errors
    /// The errors of [`check_frame`]; [`SendError::Closed`].
    pub async fn send(&self, frame: Frame) -> Result<(), SendError> {
        if frame.channel.delivery() == Delivery::ReliableOrdered {
            check_frame(&frame)?;
            return Ok(self.push(frame).await?);
        }
        match self.try_send(frame) {
            Err(SendError::Full(_)) => Ok(()),
            other => other,
        }
    }

    /// Puts a frame in, waiting while its lane is full. Cancel safe: the frame is in only once
    /// this has returned.
    ///
    /// # Errors
    /// [`Closed`] once the queue has been closed.
    pub async fn push(&self, mut frame: Frame) -> Result<(), Closed> {
        let writable = &self.writable[usize::from(frame.channel.number())];
        loop {
            let room = writable.notified();
            match self.offer(frame)? {
                Ok(()) => return Ok(()),
                Err(refused) => frame = refused,
            }
            room.await;
        }
    }

    /// Puts a frame in, dropping and counting the oldest of its lane while that is full: for media
    /// and state, where the newest matters most.
    ///
    /// # Errors
    /// [`Closed`] once the queue has been closed.
    pub fn push_newest(&self, frame: Frame) -> Result<(), Closed> {
        let mut state = self.lock();
        state.check_open()?;
        let lane = state.lane(frame.channel);
        while !lane.has_room(self.limits) && lane.take().is_some() {
            lane.drop_one();
        }
        lane.push(frame);
        drop(state);
        self.readable.notify_one();
        Ok(())
    }

    /// The next frame, of the highest priority there is. Cancel safe.
    ///
    /// # Errors
    /// [`Closed`] once the queue has been closed and emptied.
    pub async fn pop(&self) -> Result<Frame, Closed> {
        loop {
            let readable = self.readable.notified();
            if let Some(outcome) = self.try_pop() {
                return outcome;
            }
            readable.await;
        }
    }

    /// What [`pop`](Self::pop) would return at once, or `None` if it would wait.
    pub fn try_pop(&self) -> Option<Result<Frame, Closed>> {
        let mut state = self.lock();
        for channel in BY_PRIORITY {
            let lane = state.lane(channel);
            if let Some(frame) = lane.take() {
                lane.stats.popped_frames = lane.stats.popped_frames.wrapping_add(1);
                let len = frame.payload_len() as u64;
                lane.stats.popped_bytes = lane.stats.popped_bytes.wrapping_add(len);
                let more = state.lanes.iter().any(|lane| !lane.frames.is_empty());
                drop(state);
                if more {
                    // Two pushes before two receivers wait leave one permit for both: pass it on.
                    self.readable.notify_one();
                }
                self.writable[usize::from(channel.number())].notify_one();
                return Some(Ok(frame));
            }
        }
        state.closed.clone().map(Err)
    }

    /// Closes the queue: nothing more goes in, what is in can still be taken out. The first call
    /// counts.
    pub fn close(&self, closed: Closed) {
        self.lock().closed.get_or_insert(closed);
        self.readable.notify_waiters();
        for writable in &self.writable {
            writable.notify_waiters();
        }
    }

    /// How the queue was closed, if it was.
    pub fn closed(&self) -> Option<Closed> {
        self.lock().closed.clone()
    }

    /// The counters of `channel`'s lane.
    pub fn lane_stats(&self, channel: Channel) -> LaneStats {
        self.lock().lane(channel).stats
    }

    /// Puts the frame in or hands it back.
    fn offer(&self, frame: Frame) -> Result<Result<(), Frame>, Closed> {
        let mut state = self.lock();
        state.check_open()?;
        let channel = frame.channel;
        let lane = state.lane(channel);
        if !lane.has_room(self.limits) {
            return Ok(Err(frame));
        }
        lane.push(frame);
        let more_room = lane.has_room(self.limits);
        drop(state);
        self.readable.notify_one();
        if more_room {
            // A pop wakes one sender; whoever leaves room behind wakes the next.
            self.writable[usize::from(channel.number())].notify_one();
        }
        Ok(Ok(()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, so there is no broken state to be seen.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lane(&mut self, channel: Channel) -> &mut Lane {
        &mut self.lanes[usize::from(channel.number())]
    }

    fn check_open(&self) -> Result<(), Closed> {
        self.closed.clone().map_or(Ok(()), Err)
    }
}

/// All channels, highest [`Channel::priority`] first.
const BY_PRIORITY: [Channel; Channel::ALL.len()] = {
    let mut sorted = Channel::ALL;
    let mut i = 0;
    while i < sorted.len() {
        sorted[sorted.len() - 1 - Channel::ALL[i].priority() as usize] = Channel::ALL[i];
        i += 1;
    }
    sorted
};

#[cfg(test)]
mod tests {
    use roundtable_core::CloseCode;

    use super::*;

    fn small() -> FrameQueue {
        FrameQueue::new(QueueLimits {
            frames: 2,
            bytes: 1000,
        })
    }

    fn frame(channel: Channel, byte: u8) -> Frame {
        Frame::binary(channel, vec![byte])
    }

    #[test]
    fn priorities_are_a_permutation_so_the_order_holds_every_channel() {
        let priorities = BY_PRIORITY.map(Channel::priority);
        assert_eq!(priorities, [7, 6, 5, 4, 3, 2, 1, 0]);
    }

    #[test]
    fn the_urgent_overtakes_the_bulky() {
        let queue = FrameQueue::default();
        queue.try_send(frame(Channel::Snapshot, 1)).unwrap();
        queue.try_send(frame(Channel::App, 2)).unwrap();
        queue.try_send(frame(Channel::Control, 3)).unwrap();
        let order = std::array::from_fn(|_| queue.try_pop().unwrap().unwrap().channel);
        assert_eq!(order, [Channel::Control, Channel::App, Channel::Snapshot]);
    }

    #[test]
    fn a_full_lane_leaves_the_others_open() {
        let queue = small();
        queue.try_send(frame(Channel::App, 1)).unwrap();
        queue.try_send(frame(Channel::App, 2)).unwrap();
        let refused = queue.try_send(frame(Channel::App, 3));
        assert_eq!(refused, Err(SendError::Full(Channel::App)));
        assert_eq!(queue.lane_stats(Channel::App).dropped_frames, 0);
        queue.try_send(frame(Channel::Control, 4)).unwrap();
    }

    #[test]
    fn bytes_fill_a_lane_too_but_never_keep_a_single_frame_out() {
        let queue = small();
        queue
            .try_send(Frame::binary(Channel::Command, vec![0; 70_000]))
            .unwrap();
        let refused = queue.try_send(frame(Channel::Command, 1));
        assert_eq!(refused, Err(SendError::Full(Channel::Command)));
    }

    #[test]
    fn the_newest_pushes_the_oldest_out_and_that_is_counted() {
        let queue = small();
        for byte in 0..5 {
            queue
                .push_newest(frame(Channel::Replication, byte))
                .unwrap();
        }
        assert_eq!(
            queue.try_pop().unwrap().unwrap(),
            frame(Channel::Replication, 3)
        );
        assert_eq!(queue.lane_stats(Channel::Replication).dropped_frames, 3);
    }

    #[tokio::test]
    async fn closing_wakes_those_who_wait_and_leaves_what_is_in() {
        let queue = small();
        queue.try_send(frame(Channel::App, 1)).unwrap();
        queue.try_send(frame(Channel::App, 2)).unwrap();
        let closed = Closed {
            code: CloseCode::REPLACED,
            reason: "moved".into(),
            by_remote: true,
        };
        let (pushed, ()) = tokio::join!(queue.push(frame(Channel::App, 3)), async {
            tokio::task::yield_now().await;
            queue.close(closed.clone());
        });
        assert_eq!(pushed, Err(closed.clone()));
        assert_eq!(queue.pop().await, Ok(frame(Channel::App, 1)));
        assert_eq!(queue.pop().await, Ok(frame(Channel::App, 2)));
        assert_eq!(queue.pop().await, Err(closed));
    }

    #[tokio::test]
    async fn every_waiting_sender_gets_in_when_room_comes_at_once() {
        let queue = FrameQueue::new(QueueLimits {
            frames: 8,
            bytes: 100,
        });
        queue
            .try_send(Frame::binary(Channel::App, vec![0; 100]))
            .unwrap();
        let senders = async {
            tokio::join!(
                queue.push(frame(Channel::App, 1)),
                queue.push(frame(Channel::App, 2)),
                queue.push(frame(Channel::App, 3)),
            )
        };
        let reader = async {
            tokio::task::yield_now().await;
            queue.pop().await.unwrap();
        };
        let (sent, ()) = tokio::join!(senders, reader);
        assert_eq!(sent, (Ok(()), Ok(()), Ok(())));
    }
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_threads_pass_every_frame_and_nobody_sleeps_on() {
        const PAIRS: usize = 4;
        const FRAMES: usize = 5000;
        let queue = std::sync::Arc::new(small());
        let senders: Vec<_> = (0..PAIRS)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    for _ in 0..FRAMES {
                        queue.push(frame(Channel::App, 0)).await.unwrap();
                    }
                })
            })
            .collect();
        let receivers: Vec<_> = (0..PAIRS)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let mut received = 0;
                    while queue.pop().await.is_ok() {
                        received += 1;
                    }
                    received
                })
            })
            .collect();
        for sender in senders {
            sender.await.unwrap();
        }
        queue.close(Closed::new(CloseCode::NORMAL, "", false));
        let mut received = 0;
        for receiver in receivers {
            received += receiver.await.unwrap();
        }
        assert_eq!(received, PAIRS * FRAMES);
    }
}
