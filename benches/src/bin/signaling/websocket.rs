//! The client's side of a WebSocket (RFC 6455), with nothing in it that would cost the measurement: no
//! buffers of its own while idle, a mask of zeros, one system call for each message.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest header of a frame that a server sends.
const MAX_HEADER: usize = 10;
/// How much is read at a time.
const READ: usize = 4096;

/// What a stream must be to carry a WebSocket.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An open WebSocket.
pub(crate) struct WebSocket<S> {
    stream: S,
    unread: Vec<u8>,
}

impl<S: Stream> WebSocket<S> {
    /// Asks for the upgrade and waits for the answer.
    pub(crate) async fn open(mut stream: S, target: &str) -> io::Result<Self> {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut unread = Vec::new();
        let end = loop {
            if let Some(at) = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            fill(&mut stream, &mut unread).await?;
        };
        if !unread.starts_with(b"HTTP/1.1 101") {
            let head = String::from_utf8_lossy(&unread[..end]).into_owned();
            return Err(io::Error::other(head));
        }
        unread.drain(..end);
        Ok(Self { stream, unread })
    }

    /// Sends a text message.
    pub(crate) async fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(&frame(0x1, text.as_bytes())).await
    }

    /// What `read` makes of the next text message; pings before it are answered. Cancel safe, unless the server
    /// has stopped reading.
    pub(crate) async fn next<T>(&mut self, read: impl FnOnce(&str) -> T) -> io::Result<T> {
        loop {
            let Some((opcode, start, end)) = complete(&self.unread) else {
                fill(&mut self.stream, &mut self.unread).await?;
                continue;
            };
            let payload = &self.unread[start..end];
            match opcode {
                0x1 => {
                    let text = std::str::from_utf8(payload).map_err(io::Error::other)?;
                    let result = read(text);
                    self.unread.drain(..end);
                    return Ok(result);
                }
                0x8 => {
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    return Err(io::Error::other(format!("closed with {code:?}")));
                }
                0x9 => {
                    let pong = frame(0xa, payload);
                    self.unread.drain(..end);
                    self.stream.write_all(&pong).await?;
                }
                _ => drop(self.unread.drain(..end)),
            }
        }
    }

    /// Gives back what reading has taken: an idle client holds no buffer.
    pub(crate) fn shrink(&mut self) {
        self.unread.shrink_to_fit();
    }
}

async fn fill(stream: &mut (impl AsyncRead + Unpin), unread: &mut Vec<u8>) -> io::Result<()> {
    unread.reserve(READ);
    match stream.read_buf(unread).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// The first frame, if all of it is there: opcode, and where its payload begins and ends.
fn complete(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (start, len) = match second & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
        ),
        127 => {
            let len = bytes.get(2..MAX_HEADER)?.try_into().ok()?;
            (MAX_HEADER, usize::try_from(u64::from_be_bytes(len)).ok()?)
        }
        len => (2, usize::from(len)),
    };
    (bytes.len() >= start + len).then_some((first & 0xf, start, start + len))
}

/// A frame of one message, masked with zeros.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len @ 0..=125), _) => frame.push(0x80 | len),
        (_, Ok(len)) => {
            frame.push(0x80 | 126);
            frame.extend(len.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
