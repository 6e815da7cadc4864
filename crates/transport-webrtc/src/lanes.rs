//! What waits to be written to a TCP connection. On UDP nothing waits behind anything; here a large transfer would hold up
//! voice by all that the connection has taken of it. So little is handed to the system before it can be sent, and what has not
//! been handed over is overtaken by voice and checks.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::{net::TcpStream, sync::mpsc};

use crate::{driver::now, flight::Kind};

/// Packets that wait for one connection, of data channels and of everything else; more are dropped, as a full socket would.
const QUEUE: usize = 256;
/// Media that has waited for so long comes too late to be played.
const LATE: Duration = Duration::from_millis(300);
/// Bytes that the system takes beyond those that are on their way. Some packets: a connection must not run dry while this process
/// does something else.
#[cfg(any(target_os = "android", target_os = "linux"))]
const UNSENT: u32 = 16 << 10;

/// Has a connection send at once, and take little that it cannot send.
pub(crate) fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    // Elsewhere only the size of the send buffer limits what waits in it, and throughput with it.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
}

/// The queue of one connection.
pub(crate) fn lanes() -> (Sender, Receiver) {
    let (urgent, urgent_queue) = mpsc::channel(QUEUE);
    let (bulk, bulk_queue) = mpsc::channel(QUEUE);
    let sender = Sender { urgent, bulk };
    let receiver = Receiver {
        urgent: urgent_queue,
        bulk: bulk_queue,
    };
    (sender, receiver)
}

/// The end that puts packets in.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    /// Media with the time at which it came.
    urgent: mpsc::Sender<(Option<Instant>, BytesMut)>,
    bulk: mpsc::Sender<BytesMut>,
}

impl Sender {
    /// Queues a packet for the peer. False if it was dropped.
    pub(crate) fn send(&self, packet: BytesMut) -> bool {
        self.put(now(), Kind::of(&packet), packet)
    }

    /// Queues a message for a TURN server. False if it was dropped.
    pub(crate) fn send_relayed(&self, message: BytesMut) -> bool {
        let kind = match relayed(&message) {
            Some(packet) => Kind::of(packet),
            // Whatever waits was sent before, and the relay passes nothing on once it has read this.
            None if gives_up_the_relay(&message) => Kind::Dtls,
            None => Kind::Stun,
        };
        self.put(now(), kind, message)
    }

    fn put(&self, now: Instant, kind: Kind, packet: BytesMut) -> bool {
        match kind {
            Kind::Dtls => self.bulk.try_send(packet).is_ok(),
            Kind::Srtp => self.urgent.try_send((Some(now), packet)).is_ok(),
            Kind::Stun | Kind::Unknown => self.urgent.try_send((None, packet)).is_ok(),
        }
    }
}

/// The end that writes them.
#[derive(Debug)]
pub(crate) struct Receiver {
    urgent: mpsc::Receiver<(Option<Instant>, BytesMut)>,
    bulk: mpsc::Receiver<BytesMut>,
}

impl Receiver {
    /// The next packet; `None` when all senders are gone. Cancel safe.
    pub(crate) async fn recv(&mut self) -> Option<BytesMut> {
        loop {
            tokio::select! {
                biased;
                Some((at, packet)) = self.urgent.recv() => {
                    if !is_late(now(), at) {
                        return Some(packet);
                    }
                }
                Some(packet) = self.bulk.recv() => return Some(packet),
                else => return None,
            }
        }
    }

    /// A packet that is there already.
    pub(crate) fn try_recv(&mut self) -> Option<BytesMut> {
        self.take(now())
    }

    fn take(&mut self, now: Instant) -> Option<BytesMut> {
        while let Ok((at, packet)) = self.urgent.try_recv() {
            if !is_late(now, at) {
                return Some(packet);
            }
        }
        self.bulk.try_recv().ok()
    }
}

fn is_late(now: Instant, at: Option<Instant>) -> bool {
    at.is_some_and(|at| now.saturating_duration_since(at) > LATE)
}

/// What a message to a TURN server carries for a peer: ChannelData (RFC 8656 §12.4), or a Send indication's DATA
/// attribute (§11.1, §18.4).
fn relayed(message: &[u8]) -> Option<&[u8]> {
    const SEND: [u8; 2] = [0x00, 0x16];
    const DATA: u16 = 0x0013;
    if matches!(message.first(), Some(64..=79)) {
        return message.get(4..);
    }
    attribute(message.strip_prefix(&SEND)?, DATA)
}

/// Whether a message asks a TURN server to delete our allocation: a Refresh for 0 s (RFC 8656 §7).
fn gives_up_the_relay(message: &[u8]) -> bool {
    const REFRESH: [u8; 2] = [0x00, 0x04];
    const LIFETIME: u16 = 0x000d;
    let rest = message.strip_prefix(&REFRESH);
    rest.and_then(|rest| attribute(rest, LIFETIME)) == Some(&[0; 4])
}

/// The value of the first attribute of a kind (RFC 8489 §14) in what follows a STUN message's type.
fn attribute(message: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = message.get(18..)?;
    while let Some(&[k0, k1, l0, l1]) = rest.first_chunk() {
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if u16::from_be_bytes([k0, k1]) == kind {
            return rest.get(4..4 + len);
        }
        rest = rest.get(4 + len.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket},
        time::timeout,
    };

    use super::*;

    const VOICE: &[u8] = &[0x80, 0x6f, 1, 2];
    const DATA: &[u8] = &[23, 0xfe, 0xfd, 3];
    const CHECK: &[u8] = &[0, 1, 0, 0];

    fn bytes(of: &[u8]) -> BytesMut {
        BytesMut::from(of)
    }

    #[test]
    fn voice_and_checks_overtake_data() {
        let (sender, mut queue) = lanes();
        for packet in [DATA, VOICE, CHECK] {
            assert!(sender.send(bytes(packet)));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.try_recv()).collect();
        assert_eq!(order, [VOICE, CHECK, DATA]);
    }

    #[test]
    fn voice_and_checks_overtake_data_on_the_way_to_a_relay_as_well() {
        let channel = |payload: &[u8]| bytes(&[&[0x40, 0, 0, 4], payload].concat());
        let indication = |payload: &[u8]| {
            let peer = [0, 0x12, 0, 3, 9, 9, 9, 0];
            let header = [&[0, 0x16, 0, 16][..], &[7; 16]].concat();
            bytes(&[&header[..], &peer, &[0, 0x13, 0, 4], payload].concat())
        };
        let refresh = bytes(&[&[0, 4, 0, 0][..], &[7; 16]].concat());
        let (sender, mut queue) = lanes();
        let late = [channel(DATA), indication(DATA)];
        let first = [channel(VOICE), indication(VOICE), refresh, channel(CHECK)];
        for message in late.iter().chain(&first) {
            assert!(sender.send_relayed(message.clone()));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.try_recv()).collect();
        assert_eq!(order, [&first[..], &late].concat());
    }

    #[test]
    fn a_relay_is_given_up_after_what_waits_for_it_and_kept_before() {
        let refresh = |seconds: u8| {
            let lifetime = [0, 0x0d, 0, 4, 0, 0, 0, seconds];
            bytes(&[&[0, 4, 0, 8][..], &[7; 16], &lifetime].concat())
        };
        let data = bytes(&[&[0x40, 0, 0, 4], DATA].concat());
        let (sender, mut queue) = lanes();
        for message in [&data, &refresh(0), &refresh(60)] {
            assert!(sender.send_relayed(message.clone()));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.try_recv()).collect();
        assert_eq!(order, [refresh(60), data, refresh(0)]);
    }

    #[test]
    fn voice_that_has_waited_too_long_is_not_sent_and_checks_and_data_are() {
        let (sender, mut queue) = lanes();
        let start = now();
        for (kind, packet) in [(Kind::Srtp, VOICE), (Kind::Stun, CHECK), (Kind::Dtls, DATA)] {
            sender.put(start, kind, bytes(packet));
        }
        let later = start + LATE + Duration::from_millis(1);
        let order: Vec<_> = std::iter::from_fn(|| queue.take(later)).collect();
        assert_eq!(order, [CHECK, DATA]);
    }

    // Elsewhere the system's own buffer is not bounded.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    #[tokio::test]
    async fn voice_waits_for_little_of_a_transfer_that_fills_the_connection() {
        const SOON: Duration = Duration::from_secs(20);
        let listener = TcpSocket::new_v4().unwrap();
        listener.set_recv_buffer_size(8 << 10).unwrap();
        listener.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener: TcpListener = listener.listen(1).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (mut ours, mut theirs) = (ours.await.unwrap(), listener.accept().await.unwrap().0);
        prepare(&ours);
        let (sender, mut queue) = lanes();
        let writer = tokio::spawn(async move {
            while let Some(packet) = queue.recv().await {
                ours.write_all(&packet).await.unwrap();
            }
        });
        // The other end reads nothing, until nothing more is taken.
        let packet = bytes(&[23; 1200]);
        let (mut taken, mut refused) = (0_usize, 0);
        while refused < 200 {
            if sender.send(packet.clone()) {
                (taken, refused) = (taken + 1, 0);
            } else {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(sender.send(bytes(VOICE)));
        drop(sender);
        let mut all = Vec::new();
        timeout(SOON, theirs.read_to_end(&mut all))
            .await
            .unwrap()
            .unwrap();
        writer.await.unwrap();
        assert_eq!(all.len(), taken * 1200 + VOICE.len());
        let before = all.iter().position(|byte| *byte == VOICE[0]).unwrap();
        assert!(before <= 64 << 10, "{before} bytes came before it");
    }
}
