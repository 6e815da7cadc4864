//! The one task of a link: moves frames between its queues and its connection.

use std::{
    future::{Future, pending},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use quinn::{
    Connection, ConnectionError, ReadExactError, RecvStream, SendDatagramError, SendStream, VarInt,
};
use roundtable_core::{Channel, Clock, CloseCode, Frame, MediaPacket, Timestamp};
use roundtable_transport::{Closed, SystemClock};
use roundtable_wire::rtp::{ReceiveStatistics, ReceptionReport};
use tokio::sync::watch;

use crate::{
    link::Shared,
    wire::{
        Datagram, DatagramEncoder, MESSAGE_HEADER_LEN, Reporter, Violation, decode_datagram,
        decode_message, decode_message_header, encode_message, stream_channel,
    },
};

/// How long a close waits for the peer to have everything.
const FLUSH: Duration = Duration::from_secs(1);

/// How often a peer whose media we hear is told how it arrives.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The reliable channels that open their streams once the link is up; Control's is what makes it.
const LATER_STREAMS: [Channel; 3] = [Channel::Command, Channel::Snapshot, Channel::App];

/// Runs a link to its end. Everything the link does happens in here, so nothing outlives it.
pub(crate) async fn drive(
    shared: Arc<Shared>,
    connection: Connection,
    control: (SendStream, RecvStream),
    encoder: DatagramEncoder,
    mut endpoint_closing: watch::Receiver<bool>,
) {
    let closed = run(
        &shared,
        &connection,
        control,
        encoder,
        &mut endpoint_closing,
    )
    .await;
    shared.finish(closed);
    // Last of all: whoever closes the endpoint waits for this receiver to go.
    drop(connection);
    drop(endpoint_closing);
}

async fn run(
    shared: &Shared,
    connection: &Connection,
    (control_out, control_in): (SendStream, RecvStream),
    encoder: DatagramEncoder,
    endpoint_closing: &mut watch::Receiver<bool>,
) -> Closed {
    let reporter = encoder.reporter();
    let mut writers = pin!(write_all(shared, connection, control_out, encoder));
    let mut readers = pin!(read_all(shared, connection, control_in, reporter));
    let mut endpoint_closed = pin!(closing(endpoint_closing));
    let (mut written, mut read) = (false, false);
    let error = loop {
        tokio::select! {
            biased; // so that a simulation repeats
            closed = shared.close_requested() => {
                if !written {
                    flush(writers, readers.as_mut(), read).await;
                }
                connection.close(code(closed.code), closed.reason.as_bytes());
                return closed;
            }
            () = &mut endpoint_closed => return Closed::new(CloseCode::NORMAL, "", false),
            error = connection.closed() => break error,
            result = &mut writers, if !written => match result {
                Ok(()) => written = true,
                Err(violation) => return punish(connection, violation),
            },
            result = &mut readers, if !read => match result {
                Ok(()) => read = true,
                Err(violation) => return punish(connection, violation),
            },
        }
    };
    let closed = why(error);
    shared.stop_sending(&closed);
    // What arrived before the end still belongs to the user, who may be slow or gone.
    if !read {
        tokio::select! {
            biased;
            _ = readers => {}
            _ = shared.close_requested() => {}
            () = endpoint_closed => {}
        }
    }
    closed
}

/// Gives the writers, whose queues are closed, time to finish; goes on reading so that two peers
/// that close at once do not wait for each other.
async fn flush(
    writers: impl Future<Output = Result<(), Violation>>,
    readers: impl Future<Output = Result<(), Violation>>,
    read: bool,
) {
    let reading = async {
        if !read {
            let _ = readers.await;
        }
        pending::<()>().await;
    };
    let flushed = async {
        tokio::select! {
            biased;
            _ = writers => {}
            () = reading => {}
        }
    };
    let _ = tokio::time::timeout(FLUSH, flushed).await;
}

/// Returns when the endpoint closes; never if its handles are merely dropped.
async fn closing(endpoint: &mut watch::Receiver<bool>) {
    if endpoint.wait_for(|closing| *closing).await.is_err() {
        pending::<()>().await;
    }
}

fn punish(connection: &Connection, violation: Violation) -> Closed {
    tracing::warn!(%violation, remote = %connection.remote_address(), "peer broke the protocol");
    let closed = Closed::new(violation.code(), &violation.to_string(), false);
    connection.close(code(closed.code), closed.reason.as_bytes());
    closed
}

/// A close code as QUIC carries it: the application error code of CONNECTION_CLOSE.
pub(crate) fn code(code: CloseCode) -> VarInt {
    VarInt::from(code.0)
}

/// How a connection's end looks from here.
pub(crate) fn why(error: ConnectionError) -> Closed {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = u16::try_from(close.error_code.into_inner());
            let code = code.map_or(CloseCode::PROTOCOL, CloseCode);
            Closed::new(code, &String::from_utf8_lossy(&close.reason), true)
        }
        ConnectionError::TransportError(error) => {
            Closed::new(CloseCode::PROTOCOL, &error.to_string(), false)
        }
        ConnectionError::LocallyClosed => Closed::new(CloseCode::NORMAL, "", false),
        lost => Closed::new(CloseCode::LOST, &lost.to_string(), false),
    }
}

/// Sends until the queues are closed and everything in them has reached the peer, or until the
/// connection is gone.
async fn write_all(
    shared: &Shared,
    connection: &Connection,
    control: SendStream,
    encoder: DatagramEncoder,
) -> Result<(), Violation> {
    let [command, snapshot, app] =
        LATER_STREAMS.map(|channel| open_and_write(shared, connection, channel));
    tokio::try_join!(
        write_stream(shared, Channel::Control, control),
        command,
        snapshot,
        app,
        write_datagrams(shared, connection, encoder),
    )?;
    Ok(())
}

/// Opens the stream of `channel`: its first byte is the channel's number.
pub(crate) async fn open_stream(
    connection: &Connection,
    channel: Channel,
) -> Result<SendStream, ConnectionError> {
    let mut stream = connection.open_uni().await?;
    let _ = stream.set_priority(i32::from(channel.priority()));
    match stream.write_all(&[channel.number()]).await {
        Ok(()) => Ok(stream),
        Err(quinn::WriteError::ConnectionLost(error)) => Err(error),
        Err(_) => Err(ConnectionError::Reset), // stopped before it began
    }
}

async fn open_and_write(
    shared: &Shared,
    connection: &Connection,
    channel: Channel,
) -> Result<(), Violation> {
    match open_stream(connection, channel).await {
        Ok(stream) => write_stream(shared, channel, stream).await,
        Err(_) => Ok(()), // the connection's own end says why
    }
}

async fn write_stream(
    shared: &Shared,
    channel: Channel,
    mut stream: SendStream,
) -> Result<(), Violation> {
    while let Ok(frame) = shared.outgoing(channel).pop().await {
        match stream.write_all_chunks(&mut encode_message(frame)).await {
            Ok(()) => {}
            Err(quinn::WriteError::Stopped(_)) => return Err(Violation::BrokenStream),
            Err(_) => return Ok(()),
        }
    }
    if stream.finish().is_ok() {
        // Resolves once the peer has acknowledged every byte.
        let _ = stream.stopped().await;
    }
    Ok(())
}

async fn write_datagrams(
    shared: &Shared,
    connection: &Connection,
    mut encoder: DatagramEncoder,
) -> Result<(), Violation> {
    while let Ok(frame) = shared.datagrams().pop().await {
        let Some(datagram) = encoder.encode(&frame) else {
            shared.count_drop(frame.channel);
            continue;
        };
        match connection.send_datagram_wait(datagram).await {
            Ok(()) => {}
            // The path's MTU has shrunk below what QUIC promises.
            Err(SendDatagramError::TooLarge) => shared.count_drop(frame.channel),
            Err(_) => break,
        }
    }
    Ok(())
}

/// Receives until the connection is gone and what it had received has been handed on.
async fn read_all(
    shared: &Shared,
    connection: &Connection,
    control: RecvStream,
    reporter: Reporter,
) -> Result<(), Violation> {
    tokio::try_join!(
        read_streams(shared, connection, control),
        read_datagrams(shared, connection, &reporter),
    )?;
    Ok(())
}

async fn read_streams(
    shared: &Shared,
    connection: &Connection,
    control: RecvStream,
) -> Result<(), Violation> {
    let mut seen = 1_u8 << Channel::Control.number();
    let mut opening = FuturesUnordered::new();
    let mut reading = FuturesUnordered::new();
    reading.push(read_stream(shared, Channel::Control, control));
    let mut accepting = true;
    while accepting || !opening.is_empty() || !reading.is_empty() {
        tokio::select! {
            biased;
            stream = connection.accept_uni(), if accepting => match stream {
                Ok(mut stream) => opening.push(async move {
                    let channel = read_channel(&mut stream).await?;
                    Ok(channel.map(|channel| (channel, stream)))
                }),
                Err(_) => accepting = false,
            },
            Some(opened) = opening.next() => {
                let Some((channel, stream)) = opened? else { continue };
                let bit = 1 << channel.number();
                if seen & bit != 0 {
                    return Err(Violation::DuplicateStream);
                }
                seen |= bit;
                reading.push(read_stream(shared, channel, stream));
            }
            Some(ended) = reading.next() => ended?,
        }
    }
    Ok(())
}

/// The channel that a new stream is for, or `None` if the connection ended first.
pub(crate) async fn read_channel(stream: &mut RecvStream) -> Result<Option<Channel>, Violation> {
    let mut number = [0];
    match stream.read_exact(&mut number).await {
        Ok(()) => stream_channel(number[0]).map(Some),
        Err(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(_))) => Ok(None),
        Err(_) => Err(Violation::BrokenStream),
    }
}

/// Hands on the messages of one stream until it ends. Waits while the user does not receive, so
/// that QUIC's flow control makes the peer wait too.
async fn read_stream(
    shared: &Shared,
    channel: Channel,
    mut stream: RecvStream,
) -> Result<(), Violation> {
    loop {
        let mut header = [0; MESSAGE_HEADER_LEN];
        match stream.read_exact(&mut header).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(0)) => return Ok(()),
            Err(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(_))) => return Ok(()),
            Err(_) => return Err(Violation::BrokenStream),
        }
        let (text, length) = decode_message_header(channel, header)?;
        let mut payload = vec![0; length];
        match stream.read_exact(&mut payload).await {
            Ok(()) => {}
            Err(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(_))) => return Ok(()),
            Err(_) => return Err(Violation::BrokenStream),
        }
        let frame = decode_message(channel, text, payload.into())?;
        if shared.incoming.push(frame).await.is_err() {
            return Ok(());
        }
    }
}

async fn read_datagrams(
    shared: &Shared,
    connection: &Connection,
    reporter: &Reporter,
) -> Result<(), Violation> {
    let (mut voice, mut video) = (Heard::default(), Heard::default());
    while let Ok(datagram) = connection.read_datagram().await {
        let frame = match decode_datagram(&datagram)? {
            Datagram::Message(frame) => frame,
            Datagram::Clock(channel, _, clock) => Frame::clock(channel, clock),
            Datagram::Media(channel, ssrc, packet) => {
                let stream = if channel == Channel::Video {
                    &mut video
                } else {
                    &mut voice
                };
                if let Some(report) = stream.packet(shared, ssrc, &packet) {
                    // A report that finds no room is as good as lost on the way.
                    let _ = connection.send_datagram(reporter.encode(channel, report));
                }
                Frame::media(channel, packet)
            }
            Datagram::UnknownCodec(channel) => {
                shared.count_drop(channel);
                continue;
            }
            Datagram::Report(Channel::Voice, Some(fraction)) => {
                shared.voice_lost(SystemClock.now(), fraction);
                continue;
            }
            Datagram::Report(..) => continue,
        };
        if shared.incoming.push_newest(frame).is_err() {
            break;
        }
    }
    Ok(())
}

/// A media stream of the peer's, and when we last told the peer how it arrives.
#[derive(Default)]
struct Heard {
    stream: Option<(ReceiveStatistics, Timestamp)>,
}

impl Heard {
    /// Takes note of a packet; returns the report that is due.
    fn packet(
        &mut self,
        shared: &Shared,
        ssrc: u32,
        packet: &MediaPacket,
    ) -> Option<ReceptionReport> {
        let now = SystemClock.now();
        if self
            .stream
            .as_ref()
            .is_none_or(|(known, _)| known.ssrc() != ssrc)
        {
            self.stream = None; // a new SSRC is a new stream (RFC 3550 §8.2)
        }
        let new = || (ReceiveStatistics::new(ssrc, packet.codec), now);
        let (statistics, reported) = self.stream.get_or_insert_with(new);
        statistics.packet(now, packet);
        shared.heard_jitter(now, statistics.jitter());
        if now.saturating_since(*reported) < REPORT_INTERVAL {
            return None;
        }
        *reported = now;
        Some(statistics.report(now))
    }
}
