//! The room's open links, and the tasks that carry frames between them and the room.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use roundtable_core::{
    Channel, CloseCode, Delivery, Frame, LinkStats, PeerId, Timestamp, TransportKind,
};
use roundtable_session::LinkId;
use roundtable_transport::{Closed, Link, SendError};
use roundtable_transport_webrtc::WebRtcLink;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::{JoinHandle, JoinSet},
};

use crate::CommandTransport;

/// Frames of one reliable channel, and bytes of them, that may wait for their link. A peer that is further behind is
/// cut off as a slow consumer; it catches up when it links again.
const WRITER_QUEUE: usize = 4096;
const WRITER_BYTES: usize = 16 << 20;

/// What links tell the room.
#[derive(Debug)]
pub(crate) enum FromLink {
    Frame { link: LinkId, frame: Frame },
    Closed { link: LinkId, closed: Closed },
}

/// An open link.
#[derive(Debug)]
pub(crate) struct ActiveLink {
    pub(crate) peer: PeerId,
    pub(crate) transport: CommandTransport,
    /// When its negotiation began.
    pub(crate) started: Timestamp,
    /// When its transport opened.
    pub(crate) opened: Timestamp,
    /// Whether this peer made the offer, and so makes the next one.
    pub(crate) offered_here: bool,
    /// Whether the session has admitted the peer on this link.
    pub(crate) admitted: bool,
    /// By channel number; `None` for unreliable channels.
    writers: [Option<Writer>; 8],
    tasks: Vec<JoinHandle<()>>,
}

impl ActiveLink {
    fn gone(&self) -> Gone {
        let Self {
            offered_here,
            admitted,
            ..
        } = *self;
        Gone {
            peer: self.peer.clone(),
            opened: self.opened,
            kind: self.transport.kind(),
            offered_here,
            admitted,
            stats: self.transport.stats(),
        }
    }
}

/// The queue of one reliable channel.
#[derive(Debug)]
struct Writer {
    frames: mpsc::Sender<Frame>,
    /// Bytes that wait.
    bytes: Arc<AtomicUsize>,
}

impl Writer {
    /// `Err` when the peer is too slow.
    fn queue(&self, frame: Frame) -> Result<(), ()> {
        let len = frame.payload_len();
        if self.bytes.fetch_add(len, Ordering::Relaxed) + len > WRITER_BYTES {
            return Err(());
        }
        match self.frames.try_send(frame) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(()),
        }
    }
}

/// What remains to be known of a link that was closed.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) peer: PeerId,
    pub(crate) opened: Timestamp,
    pub(crate) kind: TransportKind,
    pub(crate) offered_here: bool,
    pub(crate) admitted: bool,
    /// What it had counted.
    pub(crate) stats: LinkStats,
}

/// Every open link, and those that are closing.
#[derive(Debug)]
pub(crate) struct Links {
    next: u64,
    active: HashMap<LinkId, ActiveLink>,
    closing: JoinSet<()>,
    inbox: mpsc::Sender<FromLink>,
}

impl Links {
    pub(crate) fn new(inbox: mpsc::Sender<FromLink>) -> Self {
        Self {
            next: 0,
            active: HashMap::new(),
            closing: JoinSet::new(),
            inbox,
        }
    }

    /// Takes a link and starts its tasks.
    pub(crate) fn add(
        &mut self,
        peer: PeerId,
        transport: CommandTransport,
        offered_here: bool,
        started: Timestamp,
        opened: Timestamp,
    ) -> LinkId {
        self.next += 1;
        let id = LinkId(self.next);
        let mut tasks = vec![tokio::spawn(read(
            id,
            transport.clone(),
            self.inbox.clone(),
        ))];
        let mut writers = [const { None }; 8];
        for channel in Channel::DATA {
            if channel.delivery() == Delivery::ReliableOrdered {
                let (sender, queue) = mpsc::channel(WRITER_QUEUE);
                let bytes = Arc::new(AtomicUsize::new(0));
                tasks.push(tokio::spawn(write(
                    transport.clone(),
                    queue,
                    Arc::clone(&bytes),
                )));
                let frames = sender;
                writers[usize::from(channel.number())] = Some(Writer { frames, bytes });
            }
        }
        let link = ActiveLink {
            peer,
            transport,
            started,
            opened,
            offered_here,
            admitted: false,
            writers,
            tasks,
        };
        self.active.insert(id, link);
        id
    }

    pub(crate) fn get(&self, id: LinkId) -> Option<&ActiveLink> {
        self.active.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: LinkId) -> Option<&mut ActiveLink> {
        self.active.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LinkId, &ActiveLink)> {
        self.active.iter().map(|(id, link)| (*id, link))
    }

    /// Whether `peer` is admitted on any link.
    pub(crate) fn admits(&self, peer: &PeerId) -> bool {
        let mut links = self.active.values();
        links.any(|link| link.peer == *peer && link.admitted)
    }

    /// Whether a link to `peer` is open.
    pub(crate) fn reaches(&self, peer: &PeerId) -> bool {
        self.active.values().any(|link| link.peer == *peer)
    }

    /// The open WebRTC links, with their peers.
    pub(crate) fn webrtc(&self) -> impl Iterator<Item = (&PeerId, &WebRtcLink)> {
        let links = self.active.values();
        links.filter_map(|link| match &link.transport {
            CommandTransport::WebRtc(webrtc) => Some((&link.peer, webrtc)),
            _ => None,
        })
    }

    /// The open WebRTC link to one peer.
    pub(crate) fn webrtc_to(&self, peer: &PeerId) -> Option<(LinkId, &WebRtcLink)> {
        let mut links = self.active.iter().filter(|(_, link)| link.peer == *peer);
        links.find_map(|(id, link)| match &link.transport {
            CommandTransport::WebRtc(webrtc) => Some((*id, webrtc)),
            _ => None,
        })
    }

    /// Queues a frame. `Err` means that the peer is too slow and the link must be closed.
    pub(crate) fn send(&self, id: LinkId, frame: Frame) -> Result<(), ()> {
        let Some(link) = self.active.get(&id) else {
            return Ok(());
        };
        let channel = frame.channel;
        match &link.writers[usize::from(channel.number())] {
            Some(writer) => writer.queue(frame),
            None => {
                // Full is normal on a slow line, and counted by the link; so is a guest's lack of
                // a channel.
                match link.transport.try_send(frame) {
                    Ok(()) | Err(SendError::Full(_) | SendError::Closed(_)) => {}
                    Err(error) => tracing::trace!(%error, channel = channel.name(), "not sent"),
                }
                Ok(())
            }
        }
    }

    /// Forgets a link whose transport has closed.
    pub(crate) fn remove(&mut self, id: LinkId) -> Option<Gone> {
        self.active.remove(&id).map(|link| link.gone())
    }

    /// Closes a link in the background, after what is queued.
    pub(crate) fn close(
        &mut self,
        id: LinkId,
        code: CloseCode,
        reason: &'static str,
    ) -> Option<Gone> {
        let link = self.active.remove(&id)?;
        let gone = link.gone();
        let ActiveLink {
            transport,
            writers,
            mut tasks,
            ..
        } = link;
        self.closing.spawn(async move {
            drop(writers);
            let flushed = async {
                // The first task reads and ends with the link; the others end with their queues.
                for task in tasks.drain(1..) {
                    let _ = task.await;
                }
            };
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), flushed).await;
            transport.close(code, reason).await;
        });
        while self.closing.try_join_next().is_some() {}
        Some(gone)
    }

    /// Closes a link in the background that was never added.
    pub(crate) fn turn_down(&mut self, transport: CommandTransport, reason: &'static str) {
        self.closing
            .spawn(async move { transport.close(CloseCode::REPLACED, reason).await });
        while self.closing.try_join_next().is_some() {}
    }

    /// Closes every link and waits until nothing of them is left.
    pub(crate) async fn close_all(mut self, code: CloseCode, reason: &'static str) {
        let ids: Vec<_> = self.active.keys().copied().collect();
        for id in ids {
            self.close(id, code, reason);
        }
        while self.closing.join_next().await.is_some() {}
    }
}

async fn read(link: LinkId, transport: CommandTransport, inbox: mpsc::Sender<FromLink>) {
    loop {
        let message = match transport.recv().await {
            Ok(frame) => FromLink::Frame { link, frame },
            Err(closed) => FromLink::Closed { link, closed },
        };
        let last = matches!(message, FromLink::Closed { .. });
        if inbox.send(message).await.is_err() || last {
            return;
        }
    }
}

async fn write(
    transport: CommandTransport,
    mut queue: mpsc::Receiver<Frame>,
    bytes: Arc<AtomicUsize>,
) {
    while let Some(frame) = queue.recv().await {
        bytes.fetch_sub(frame.payload_len(), Ordering::Relaxed);
        match transport.send(frame).await {
            Ok(()) => {}
            Err(SendError::Closed(_)) => return,
            Err(error) => tracing::debug!(%error, "a frame was not sent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use roundtable_core::{Channel, Frame};
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn what_waits_for_a_slow_link_is_bounded_by_its_bytes() {
        let (frames, mut queue) = mpsc::channel(WRITER_QUEUE);
        let bytes = Arc::default();
        let writer = Writer { frames, bytes };
        let frame = || Frame::binary(Channel::Command, vec![0; 64 * 1024]);
        let queued = (0..WRITER_QUEUE).take_while(|_| writer.queue(frame()).is_ok());
        assert_eq!(queued.count(), WRITER_BYTES / (64 * 1024));
        assert!(queue.try_recv().is_ok());
    }
}
