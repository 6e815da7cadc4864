//! Redundant audio: several frames in one RTP payload (RFC 2198).
//!
//! A payload begins with one header for each block: four bytes for a redundant one, oldest first, and one byte
//! for the primary, which comes last. A block's length has ten bits and the age of a redundant one fourteen.

use bytes::{BufMut, Bytes};

use super::RtpError;

/// Blocks in one payload, the primary among them. Payloads that announce more are refused.
pub const MAX_RED_BLOCKS: usize = 8;
/// The oldest that a redundant block can be, in ticks of the RTP clock: 341 ms at 48 kHz.
pub const MAX_RED_OFFSET: u32 = (1 << 14) - 1;
/// The longest that a redundant block can be, in bytes.
pub const MAX_RED_BLOCK_LEN: usize = (1 << 10) - 1;

/// Bytes of header for a redundant block, and for the primary.
const REDUNDANT_HEADER_LEN: usize = 4;
const PRIMARY_HEADER_LEN: usize = 1;
const MORE: u8 = 0x80;

/// One frame of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedBlock {
    /// What the frame is coded in, as an RTP payload type.
    pub payload_type: u8,
    /// By how many ticks it is older than the packet's timestamp; 0 for the primary.
    pub offset: u32,
    /// The frame. Shares the packet's memory.
    pub payload: Bytes,
}

/// The length of the payload that [`encode_red`] writes.
pub fn red_len(redundant: &[RedBlock], primary: &[u8]) -> usize {
    let older = redundant.iter();
    let older: usize = older.map(|b| REDUNDANT_HEADER_LEN + b.payload.len()).sum();
    older + PRIMARY_HEADER_LEN + primary.len()
}

/// Appends a payload to `out`: `redundant`, oldest first, and `primary`, coded in `payload_type`.
///
/// Returns whether it did. Nothing is written of blocks that are too many, too old or too long for
/// the format.
pub fn encode_red(
    redundant: &[RedBlock],
    payload_type: u8,
    primary: &[u8],
    out: &mut impl BufMut,
) -> bool {
    let fits = |block: &RedBlock| {
        block.offset <= MAX_RED_OFFSET && block.payload.len() <= MAX_RED_BLOCK_LEN
    };
    if redundant.len() >= MAX_RED_BLOCKS || !redundant.iter().all(fits) {
        return false;
    }
    for block in redundant {
        out.put_u8(MORE | (block.payload_type & !MORE));
        #[allow(clippy::cast_possible_truncation)] // checked to have 14 and 10 bits
        out.put_uint(
            u64::from(block.offset) << 10 | block.payload.len() as u64,
            3,
        );
    }
    out.put_u8(payload_type & !MORE);
    for block in redundant {
        out.put_slice(&block.payload);
    }
    out.put_slice(primary);
    true
}

/// Reads a payload. The blocks come oldest first, the primary last; they share `payload`.
///
/// # Errors
/// [`RtpError::Truncated`] where headers or blocks are cut off, [`RtpError::RedBlocks`] beyond
/// [`MAX_RED_BLOCKS`]; no input panics.
pub fn decode_red(payload: &Bytes) -> Result<RedBlocks, RtpError> {
    let (mut headers, mut len) = (0, 0);
    for _ in 0..MAX_RED_BLOCKS {
        let (more, _, block_len, header) = block_header(payload, headers)?;
        headers += header;
        len += block_len;
        if !more {
            if payload.len() < headers + len {
                return Err(RtpError::Truncated);
            }
            return Ok(RedBlocks {
                payload: payload.clone(),
                header: Some(0),
                body: headers,
            });
        }
    }
    Err(RtpError::RedBlocks)
}

/// The primary of a payload: what a receiver without RED would have been sent.
///
/// # Errors
/// As [`decode_red`].
pub fn red_primary(payload: &Bytes) -> Result<Bytes, RtpError> {
    let last = decode_red(payload)?.last();
    last.map(|block| block.payload).ok_or(RtpError::Truncated)
}

/// Whether another header follows, the block's age, its length, and the header's.
fn block_header(payload: &[u8], at: usize) -> Result<(bool, u32, usize, usize), RtpError> {
    let first = *payload.get(at).ok_or(RtpError::Truncated)?;
    if first & MORE == 0 {
        return Ok((false, 0, 0, PRIMARY_HEADER_LEN));
    }
    let header = payload.get(at..at + REDUNDANT_HEADER_LEN);
    let &[_, a, b, c] = header.ok_or(RtpError::Truncated)? else {
        return Err(RtpError::Truncated);
    };
    let bits = u32::from_be_bytes([0, a, b, c]);
    let len = (bits & 0x3ff) as usize;
    Ok((true, bits >> 10, len, REDUNDANT_HEADER_LEN))
}

/// The blocks of a payload, from [`decode_red`].
#[derive(Debug, Clone)]
pub struct RedBlocks {
    payload: Bytes,
    /// Where the next block's header is; `None` after the primary.
    header: Option<usize>,
    /// Where the next block is.
    body: usize,
}

impl Iterator for RedBlocks {
    type Item = RedBlock;

    fn next(&mut self) -> Option<RedBlock> {
        let at = self.header?;
        let (more, offset, len, header) = block_header(&self.payload, at).ok()?;
        let end = if more {
            self.body + len
        } else {
            self.payload.len()
        };
        let block = RedBlock {
            payload_type: self.payload[at] & !MORE,
            offset,
            payload: self.payload.slice(self.body..end),
        };
        self.header = more.then_some(at + header);
        self.body = end;
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    fn any_block() -> impl Strategy<Value = RedBlock> {
        let payload = prop::collection::vec(any::<u8>(), 0..200);
        (0..128_u8, 0..=MAX_RED_OFFSET, payload).prop_map(|(payload_type, offset, payload)| {
            RedBlock {
                payload_type,
                offset,
                payload: payload.into(),
            }
        })
    }

    proptest! {
        #[test]
        fn blocks_round_trip(
            redundant in prop::collection::vec(any_block(), 0..MAX_RED_BLOCKS),
            primary in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut out = BytesMut::new();
            prop_assert!(encode_red(&redundant, 111, &primary, &mut out));
            prop_assert_eq!(out.len(), red_len(&redundant, &primary));
            let payload = out.freeze();
            let mut blocks: Vec<_> = decode_red(&payload).unwrap().collect();
            let last = blocks.pop().unwrap();
            prop_assert_eq!((last.payload_type, last.offset), (111, 0));
            prop_assert_eq!(&last.payload, &primary);
            prop_assert_eq!(red_primary(&payload).unwrap(), primary);
            prop_assert_eq!(blocks, redundant);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(blocks) = decode_red(&bytes.into()) {
                prop_assert!(blocks.count() <= MAX_RED_BLOCKS);
            }
        }
    }

    /// The bytes of RFC 2198 §4's layout, written out by hand.
    #[test]
    fn the_layout_is_the_rfcs() {
        let older = RedBlock {
            payload_type: 111,
            offset: 960,
            payload: Bytes::from_static(b"old"),
        };
        let mut out = BytesMut::new();
        assert!(encode_red(&[older], 111, b"new", &mut out));
        // 960 << 10 | 3
        assert_eq!(&out[..], b"\xef\x0f\x00\x03\x6foldnew");
    }

    #[test]
    fn lies_are_named() {
        let decode = |bytes: &'static [u8]| decode_red(&Bytes::from_static(bytes)).err();
        assert_eq!(decode(b""), Some(RtpError::Truncated));
        assert_eq!(decode(b"\xef\x0f\x00"), Some(RtpError::Truncated));
        assert_eq!(decode(b"\xef\x0f\x00\x03\x6fol"), Some(RtpError::Truncated));
        assert_eq!(decode(&[0xef; 80]), Some(RtpError::RedBlocks));
        assert_eq!(
            decode(b"\x6f"),
            None,
            "an empty primary is the codec's matter"
        );
    }
}
