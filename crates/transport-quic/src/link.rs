//! The handle to one QUIC connection.

use std::net::SocketAddr;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream, Side};
use roundtable_core::{
    AuthorId, Bitrate, Channel, ChannelBinding, ChannelStats, Clock, CloseCode, Delivery, Frame,
    LinkStats, PacketStats, Timestamp, TransportKind,
};
use roundtable_transport::{Closed, FrameQueue, Link, SendError, SystemClock};
use tokio::sync::watch;

use crate::{driver, wire::DatagramEncoder};

const BINDING_LABEL: &[u8] = b"EXPORTER-roundtable-link-v1";
const SSRC_LABEL: &[u8] = b"EXPORTER-roundtable-ssrc-v1";

/// A [`Link`] over one QUIC connection, both of whose ends have proven their author keys.
///
/// Cheap to clone; dropping the last clone closes the link with [`CloseCode::NORMAL`]. A link
/// outlives the [`QuicEndpoint`](crate::QuicEndpoint) handle that made it, but not
/// [`QuicEndpoint::close`](crate::QuicEndpoint::close).
#[derive(Debug, Clone)]
pub struct QuicLink(Arc<Handle>);

/// Closes the link when the last user lets go; the driver holds [`Shared`] alone.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.begin_close(CloseCode::NORMAL, "");
    }
}

/// What the users of a link and its driver share.
#[derive(Debug)]
pub(crate) struct Shared {
    binding: ChannelBinding,
    remote_author: AuthorId,
    takes_datagrams: bool,
    /// One queue for each reliable channel's stream, by channel number, and one for datagrams.
    outgoing: [FrameQueue; 9],
    pub(crate) incoming: FrameQueue,
    /// Frames lost between queue and network, by channel number.
    dropped: [AtomicU64; 8],
    media: Mutex<Media>,
    /// The connection while it lives, and what it measured once it does not.
    path: Mutex<Path>,
    close_request: watch::Sender<Option<Closed>>,
    finished: watch::Sender<bool>,
}

/// What media has shown of the line, and when.
#[derive(Debug, Default)]
struct Media {
    /// Interarrival jitter of the stream heard last.
    jitter: Option<(Timestamp, Duration)>,
    /// Share of our voice that the peer missed by its last report, in 1/256.
    voice_lost: Option<(Timestamp, u8)>,
}

impl Media {
    /// What still says something of the line.
    fn fill(&self, now: Timestamp, stats: &mut LinkStats) {
        let counts = |at: Timestamp| now <= at + LinkStats::COUNTS_FOR;
        stats.jitter = self.jitter.filter(|(at, _)| counts(*at)).map(|(_, j)| j);
        let lost = self.voice_lost.filter(|(at, _)| counts(*at));
        stats.voice_loss = lost.map(|(_, fraction)| f32::from(fraction) / 256.0);
    }
}

#[derive(Debug)]
enum Path {
    Live(Connection),
    Ended(Measured),
}

/// What QUIC measures by itself.
#[derive(Debug, Clone, Copy)]
struct Measured {
    rtt: Duration,
    loss: f32,
    bandwidth: Bitrate,
    packets: PacketStats,
}

impl Measured {
    fn of(connection: &Connection) -> Self {
        let stats = connection.stats();
        let path = stats.path;
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // a share
        let loss = (path.lost_packets as f64 / path.sent_packets.max(1) as f64) as f32;
        let micros = u64::try_from(path.rtt.as_micros())
            .unwrap_or(u64::MAX)
            .max(1);
        let bps = path.cwnd.saturating_mul(8_000_000) / micros;
        Self {
            rtt: path.rtt,
            loss: loss.min(1.0),
            bandwidth: Bitrate::from_bps(u32::try_from(bps).unwrap_or(u32::MAX)),
            packets: PacketStats {
                sent: stats.udp_tx.datagrams,
                sent_bytes: stats.udp_tx.bytes,
                received: stats.udp_rx.datagrams,
                received_bytes: stats.udp_rx.bytes,
                lost: path.lost_packets,
            },
        }
    }
}

/// Index of the queue for datagrams.
const DATAGRAMS: usize = 8;

impl QuicLink {
    /// Starts the task of a link whose control streams are open.
    pub(crate) fn start(
        connection: Connection,
        control: (SendStream, RecvStream),
        author: AuthorId,
        remote_author: AuthorId,
        endpoint_closing: watch::Receiver<bool>,
    ) -> Result<Self, quinn::crypto::ExportKeyingMaterialError> {
        let mut binding = [0; 32];
        connection.export_keying_material(&mut binding, BINDING_LABEL, b"")?;
        let encoder = DatagramEncoder::new(author, ssrcs(&connection)?);
        let shared = Arc::new(Shared {
            binding: ChannelBinding::from_bytes(binding),
            remote_author,
            takes_datagrams: connection.max_datagram_size().is_some(),
            outgoing: std::array::from_fn(|_| FrameQueue::default()),
            incoming: FrameQueue::default(),
            dropped: std::array::from_fn(|_| AtomicU64::new(0)),
            media: Mutex::default(),
            path: Mutex::new(Path::Live(connection.clone())),
            close_request: watch::Sender::new(None),
            finished: watch::Sender::new(false),
        });
        tokio::spawn(driver::drive(
            shared.clone(),
            connection,
            control,
            encoder,
            endpoint_closing,
        ));
        Ok(Self(Arc::new(Handle(shared))))
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }

    /// Where the peer's packets come from now; `None` once the link has ended.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        let path = self.shared().path.lock();
        match &*path.unwrap_or_else(PoisonError::into_inner) {
            Path::Live(connection) => Some(connection.remote_address()),
            Path::Ended(_) => None,
        }
    }
}

/// The SSRCs of our voice and video: as random as RFC 3550 §8.1 wants, and never the peer's.
fn ssrcs(connection: &Connection) -> Result<[u32; 2], quinn::crypto::ExportKeyingMaterialError> {
    let side = match connection.side() {
        Side::Client => b"client",
        Side::Server => b"server",
    };
    let mut bytes = [0; 8];
    connection.export_keying_material(&mut bytes, SSRC_LABEL, side)?;
    let [a, b, c, d, voice @ ..] = bytes;
    Ok([u32::from_be_bytes(voice), u32::from_be_bytes([a, b, c, d])])
}

impl Shared {
    /// The queue towards the network for `channel`.
    pub(crate) fn outgoing(&self, channel: Channel) -> &FrameQueue {
        match channel.delivery() {
            Delivery::ReliableOrdered => &self.outgoing[usize::from(channel.number())],
            Delivery::UnreliableUnordered => self.datagrams(),
        }
    }

    /// The queue of everything that travels in datagrams.
    pub(crate) fn datagrams(&self) -> &FrameQueue {
        &self.outgoing[DATAGRAMS]
    }

    pub(crate) fn count_drop(&self, channel: Channel) {
        self.dropped[usize::from(channel.number())].fetch_add(1, Ordering::Relaxed);
    }

    /// The peer's media arrives with this jitter.
    pub(crate) fn heard_jitter(&self, now: Timestamp, jitter: Duration) {
        self.media().jitter = Some((now, jitter));
    }

    /// The peer reports that it missed this share of our voice, in 1/256.
    pub(crate) fn voice_lost(&self, now: Timestamp, fraction: u8) {
        self.media().voice_lost = Some((now, fraction));
    }

    fn media(&self) -> MutexGuard<'_, Media> {
        self.media.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the driver to flush and close; the first call counts. Nothing more is sent from here.
    fn begin_close(&self, code: CloseCode, reason: &str) {
        let closed = Closed::new(code, reason, false);
        self.stop_sending(&closed);
        self.close_request.send_if_modified(|request| {
            let first = request.is_none();
            request.get_or_insert(closed);
            first
        });
    }

    /// Returns once a user has asked to close.
    pub(crate) async fn close_requested(&self) -> Closed {
        let mut request = self.close_request.subscribe();
        loop {
            if let Some(closed) = request.borrow_and_update().clone() {
                return closed;
            }
            // The sender lives as long as `self`, so this ends only with a change.
            let _ = request.changed().await;
        }
    }

    pub(crate) fn stop_sending(&self, closed: &Closed) {
        for queue in &self.outgoing {
            queue.close(closed.clone());
        }
    }

    /// Lets the users see that the link has ended and lets go of the connection.
    pub(crate) fn finish(&self, closed: Closed) {
        tracing::debug!(remote = ?self.remote_author, %closed, "QUIC link ended");
        self.stop_sending(&closed);
        self.incoming.close(closed);
        let measured = self.measure();
        *self.path.lock().unwrap_or_else(PoisonError::into_inner) = Path::Ended(measured);
        self.finished.send_replace(true);
    }

    fn measure(&self) -> Measured {
        match &*self.path.lock().unwrap_or_else(PoisonError::into_inner) {
            Path::Ended(measured) => *measured,
            Path::Live(connection) => Measured::of(connection),
        }
    }

    fn check_channel(&self, channel: Channel) -> Result<(), SendError> {
        if channel.delivery() == Delivery::UnreliableUnordered && !self.takes_datagrams {
            return Err(SendError::NotNegotiated(channel));
        }
        Ok(())
    }
}

impl Link for QuicLink {
    fn kind(&self) -> TransportKind {
        TransportKind::Quic
    }

    fn binding(&self) -> ChannelBinding {
        self.shared().binding
    }

    fn remote_author(&self) -> Option<AuthorId> {
        Some(self.shared().remote_author)
    }

    fn try_send(&self, frame: Frame) -> Result<(), SendError> {
        self.shared().check_channel(frame.channel)?;
        self.shared().outgoing(frame.channel).try_send(frame)
    }

    async fn send(&self, frame: Frame) -> Result<(), SendError> {
        self.shared().check_channel(frame.channel)?;
        self.shared().outgoing(frame.channel).send(frame).await
    }

    async fn recv(&self) -> Result<Frame, Closed> {
        self.shared().incoming.pop().await
    }

    fn stats(&self) -> LinkStats {
        let shared = self.shared();
        let measured = shared.measure();
        let mut stats = LinkStats {
            rtt: Some(measured.rtt),
            loss: measured.loss,
            bandwidth: Some(measured.bandwidth),
            packets: measured.packets,
            ..LinkStats::default()
        };
        shared.media().fill(SystemClock.now(), &mut stats);
        for channel in Channel::ALL {
            let sent = shared.outgoing(channel).lane_stats(channel);
            let received = shared.incoming.lane_stats(channel);
            let lost = shared.dropped[usize::from(channel.number())].load(Ordering::Relaxed);
            *stats.channel_mut(channel) = ChannelStats {
                sent_frames: sent.pushed_frames,
                sent_bytes: sent.pushed_bytes,
                received_frames: received.popped_frames,
                received_bytes: received.popped_bytes,
                dropped_frames: lost
                    .wrapping_add(sent.dropped_frames)
                    .wrapping_add(received.dropped_frames),
            };
        }
        stats
    }

    async fn close(&self, code: CloseCode, reason: &str) {
        self.shared().begin_close(code, reason);
        let mut finished = self.shared().finished.subscribe();
        // The sender lives in `self`, so this cannot end before the driver has.
        let _ = finished.wait_for(|finished| *finished).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_media_has_shown_is_forgotten_when_there_is_no_more_of_it() {
        let media = Media {
            jitter: Some((Timestamp::from_millis(1000), Duration::from_millis(30))),
            voice_lost: Some((Timestamp::from_millis(5000), 64)),
        };
        let shown = |millis| {
            let mut stats = LinkStats::default();
            media.fill(Timestamp::from_millis(millis), &mut stats);
            (stats.jitter, stats.voice_loss)
        };
        let jitter = Some(Duration::from_millis(30));
        assert_eq!(shown(11_000), (jitter, Some(0.25)));
        assert_eq!(shown(11_001), (None, Some(0.25)));
        assert_eq!(shown(15_001), (None, None));
    }
}
