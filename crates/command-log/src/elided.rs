//! Short forms of frames on a link: what the receiver knows from an earlier frame is left out.
//!
//! A link's sender numbers *slots*, in each of which both ends remember one frame that was sent: its header and its id.
//! A frame that follows the one in a slot is sent without what can be told from that: its author, its schema, all of the
//! previous frame's id but a tag, its first nonce; of its times only the difference. Nothing that is signed depends on it:
//! the receiver restores the full form, byte for byte, before anyone looks at it.

use bytes::{BufMut, Bytes, BytesMut};
use roundtable_wire::limits::MAX_BODY_LEN;

use crate::{
    FULL_HEADER_LEN, FrameError, FrameId, GenesisHash, Header, SignedFrame, UnverifiedFrame,
    frame::{FULL_FORM, SIGNATURE_LEN},
    layout::{put_varint, take_varint},
};

/// The first byte of a frame that follows one in a slot.
const ELIDED_FORM: u8 = 2;
/// The first byte of a frame in full form that is to be remembered in a slot.
const SLOTTED_FORM: u8 = 3;
/// How many frames each end of a link remembers in each direction.
const SLOTS: usize = 64;
/// How many bytes of the previous frame's id travel.
const TAG_LEN: usize = 4;
/// What comes before the body takes at most this: three numbers of at most 10 bytes, the rest fixed.
const MAX_ELIDED_HEADER_LEN: usize = 2 + TAG_LEN + 3 * 10 + SIGNATURE_LEN;

/// A frame that both ends of a link remember.
#[derive(Debug, Clone, Copy)]
struct Slot {
    header: Header,
    id: FrameId,
}

/// The sending end of a link: writes frames in the shortest form that the other end understands.
///
/// Remembers 64 frames. One that follows none of them takes a slot of its own; when all are taken, the one that was used
/// longest ago.
#[derive(Debug, Default)]
pub struct FrameWriter {
    /// The slot used last comes last.
    slots: Vec<(u8, Slot)>,
}

impl FrameWriter {
    /// The bytes to send for a frame: elided if it follows one that was sent before.
    pub fn write(&mut self, frame: &SignedFrame) -> Bytes {
        let slot = Slot {
            header: *frame.header(),
            id: frame.id(),
        };
        let follows = |(_, last): &(u8, Slot)| last.id == slot.header.previous;
        let (number, bytes) = match self.slots.iter().rposition(follows) {
            Some(index) => {
                let (number, last) = self.slots.remove(index);
                (number, elided(number, &last, frame))
            }
            None if self.slots.len() == SLOTS => (self.slots.remove(0).0, None),
            None => (u8::try_from(self.slots.len()).unwrap_or(u8::MAX), None),
        };
        self.slots.push((number, slot));
        bytes.unwrap_or_else(|| slotted(number, frame))
    }

    /// Sends the next frame of each author in full: the other end remembers nothing any more.
    /// Returns whether there was anything to forget.
    pub fn forget(&mut self) -> bool {
        !std::mem::take(&mut self.slots).is_empty()
    }
}

fn slotted(number: u8, frame: &SignedFrame) -> Bytes {
    let full = frame.bytes();
    let mut bytes = BytesMut::with_capacity(1 + full.len());
    bytes.put_u8(SLOTTED_FORM);
    bytes.put_u8(number);
    bytes.put_slice(&full[1..]);
    bytes.freeze()
}

/// `None` if the frame has another schema than the last, or lower times, which no log accepts.
fn elided(number: u8, last: &Slot, frame: &SignedFrame) -> Option<Bytes> {
    let header = frame.header();
    let lamport = header.lamport.checked_sub(last.header.lamport)?;
    let wall_ms = header.wall_ms.checked_sub(last.header.wall_ms)?;
    if restored(last, header.count, lamport, wall_ms).as_ref() != Some(header) {
        return None;
    }
    let body = &frame.bytes()[FULL_HEADER_LEN..];
    let mut bytes = BytesMut::with_capacity(MAX_ELIDED_HEADER_LEN + body.len());
    bytes.put_u8(ELIDED_FORM);
    bytes.put_u8(number);
    bytes.put_slice(&last.id.as_bytes()[..TAG_LEN]);
    for number in [header.count.into(), lamport, wall_ms] {
        put_varint(&mut bytes, number);
    }
    bytes.put_slice(&frame.signature());
    bytes.put_slice(body);
    Some(bytes.freeze())
}

/// The header that follows `last` and differs from it by this much.
fn restored(last: &Slot, count: u32, lamport: u64, wall_ms: u64) -> Option<Header> {
    Some(Header {
        previous: last.id,
        first_nonce: last.header.last_nonce().checked_add(1)?,
        count,
        lamport: last.header.lamport.checked_add(lamport)?,
        wall_ms: last.header.wall_ms.checked_add(wall_ms)?,
        ..last.header
    })
}

/// Why what came on a link is no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It leaves out what this end does not remember. The sender is not to blame before it has been
    /// asked for full forms.
    #[error("the frame it leaves things out against is not remembered")]
    Forgotten,
    /// It is malformed.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The receiving end of a link: reads frames in all forms.
///
/// Remembers 64 frames, each where the sender says; an earlier one there is forgotten.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// By number.
    slots: Vec<Option<Slot>>,
}

impl FrameReader {
    /// Reads a frame and checks what needs neither its log nor cryptography.
    ///
    /// # Errors
    /// [`ReadError`]; any bytes are safe.
    pub fn read(
        &mut self,
        bytes: Bytes,
        genesis: &GenesisHash,
    ) -> Result<UnverifiedFrame, ReadError> {
        let (number, full, elided) = match *bytes {
            [ELIDED_FORM, number, ..] => (number, self.restore(number, &bytes[2..])?, true),
            [SLOTTED_FORM, number, ref rest @ ..] => {
                if usize::from(number) >= SLOTS || rest.len() > FULL_HEADER_LEN + MAX_BODY_LEN {
                    return Err(FrameError::Length(bytes.len()).into());
                }
                (number, [&[FULL_FORM], rest].concat().into(), false)
            }
            _ => return Ok(UnverifiedFrame::decode(bytes, genesis)?),
        };
        let mut frame = UnverifiedFrame::decode(full, genesis)?;
        frame.elided = elided;
        let number = usize::from(number);
        if self.slots.len() <= number {
            self.slots.resize(number + 1, None);
        }
        self.slots[number] = Some(Slot {
            header: *frame.header(),
            id: frame.id(),
        });
        Ok(frame)
    }

    /// The full form of a frame, of which this is what comes after the slot's number.
    fn restore(&self, number: u8, rest: &[u8]) -> Result<Bytes, ReadError> {
        let slot = self.slots.get(usize::from(number)).and_then(Option::as_ref);
        let last = slot.ok_or(ReadError::Forgotten)?;
        let short = || FrameError::Length(rest.len());
        let (tag, mut rest) = rest.split_first_chunk::<TAG_LEN>().ok_or_else(short)?;
        if last.id.as_bytes()[..TAG_LEN] != *tag {
            return Err(ReadError::Forgotten);
        }
        let mut number = || take_varint(&mut rest).ok_or(FrameError::Nonces);
        let (count, lamport, wall_ms) = (number()?, number()?, number()?);
        let count = u32::try_from(count).map_err(|_| FrameError::Nonces)?;
        let header = restored(last, count, lamport, wall_ms).ok_or(FrameError::Nonces)?;
        if rest.len() < SIGNATURE_LEN || rest.len() > SIGNATURE_LEN + MAX_BODY_LEN {
            return Err(FrameError::Length(rest.len()).into());
        }
        let mut full = BytesMut::with_capacity(FULL_HEADER_LEN - SIGNATURE_LEN + rest.len());
        full.put_u8(FULL_FORM);
        full.put_slice(&header.fields());
        full.put_slice(rest);
        Ok(full.freeze())
    }
}
