//! Packets that repeat the ones before (RFC 2198): how many the sender repeats, and what the receiver finds in them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use roundtable_core::{MediaCodec, MediaPacket};
use roundtable_wire::rtp::{PayloadTypes, RedBlock, decode_red, encode_red, red_len};

/// Frames that a packet repeats at most.
pub(crate) const MAX_DEPTH: usize = 2;
/// Older frames that a receiver looks at, which others may send more of.
const MAX_OLDER: usize = 4;
/// The share of loss from which on packets are protected, and the one at which that ends.
const SOME_LOSS: (f32, f32) = (0.01, 0.005);
/// The same for repeating two frames rather than one.
const MUCH_LOSS: (f32, f32) = (0.08, 0.05);

/// What protects packets against loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Protection {
    /// Frames that each packet repeats.
    pub(crate) depth: usize,
    /// Whether the codec itself should repeat the last frame, coarsely.
    pub(crate) fec: bool,
}

impl Protection {
    /// What serves at this share of loss, where at most `max_depth` frames may be repeated. Repeated
    /// frames cost bit rate; the codec's own redundancy costs none, but quality, so it is used only
    /// where nothing can be repeated.
    /// `fec_needed` says that some listener takes no repeated frames at all.
    pub(crate) fn at(self, loss: f32, max_depth: usize, fec_needed: bool) -> Self {
        let above = |(on, off): (f32, f32), is_on: bool| loss >= if is_on { off } else { on };
        let some = above(SOME_LOSS, self.fec || self.depth > 0);
        let much = above(MUCH_LOSS, self.depth > 1);
        let depth = (usize::from(some) + usize::from(some && much)).min(max_depth);
        Self {
            depth,
            fec: some && (depth == 0 || fec_needed),
        }
    }
}

/// The frames that the next packets may repeat.
#[derive(Debug)]
pub(crate) struct Repeats {
    /// RTP timestamp and payload, oldest first.
    sent: VecDeque<(u32, Bytes)>,
}

impl Repeats {
    pub(crate) fn new() -> Self {
        Self {
            sent: VecDeque::with_capacity(MAX_DEPTH + 1),
        }
    }

    /// A talk spurt begins: what lies before the pause is of no use after it.
    pub(crate) fn clear(&mut self) {
        self.sent.clear();
    }

    pub(crate) fn remember(&mut self, timestamp: u32, payload: Bytes) {
        if self.sent.len() == MAX_DEPTH {
            self.sent.pop_front();
        }
        self.sent.push_back((timestamp, payload));
    }

    /// Appends to `out` a payload of `primary` and of as many of the last `depth` frames as `room` bytes
    /// hold. Returns whether there are any, else nothing is written.
    pub(crate) fn wrap(
        &self,
        timestamp: u32,
        primary: &[u8],
        depth: usize,
        room: usize,
        out: &mut BytesMut,
    ) -> bool {
        let opus = PayloadTypes::default().opus;
        let newest = self.sent.iter().rev();
        let blocks: [Option<RedBlock>; MAX_DEPTH] = {
            let mut newest = newest.map(|(then, payload)| RedBlock {
                payload_type: opus,
                offset: timestamp.wrapping_sub(*then),
                payload: payload.clone(),
            });
            std::array::from_fn(|_| newest.next())
        };
        let write = |blocks: &[RedBlock], out: &mut BytesMut| {
            red_len(blocks, primary) <= room && encode_red(blocks, opus, primary, out)
        };
        match blocks {
            [Some(last), Some(before)] if depth >= 2 => {
                let both = [before, last];
                write(&both, out) || write(&both[1..], out)
            }
            [Some(last), _] if depth >= 1 => write(&[last], out),
            _ => false,
        }
    }
}

/// A frame that a packet repeats.
#[derive(Debug, Clone)]
pub(crate) struct Older {
    /// How many packets before it was first sent.
    pub(crate) back: i64,
    /// How many ticks before the packet's own frame it begins.
    pub(crate) offset: i64,
    pub(crate) payload: Bytes,
}

/// What a packet of speech holds.
#[derive(Debug, Clone)]
pub(crate) struct Speech {
    /// Its own frame.
    pub(crate) frame: Bytes,
    /// What it repeats, oldest first.
    older: [Option<Older>; MAX_OLDER],
}

impl Speech {
    /// Reads a packet. `None` for what is no Opus; repeated frames that are none are left out.
    pub(crate) fn read(packet: MediaPacket, is_frame: impl Fn(&[u8]) -> bool) -> Option<Self> {
        let mut older = [const { None }; MAX_OLDER];
        let frame = match packet.codec {
            MediaCodec::Opus => packet.payload,
            MediaCodec::OpusRed => {
                let opus = PayloadTypes::default().opus;
                let blocks = decode_red(&packet.payload).ok()?;
                let count = blocks.clone().count();
                let mut frame = Bytes::new();
                for (index, block) in blocks.enumerate() {
                    // The block before the primary was the last packet's own, and so on.
                    let back = count - 1 - index;
                    if back == 0 && block.payload_type == opus {
                        frame = block.payload;
                    } else if block.payload_type == opus
                        && back <= MAX_OLDER
                        && block.offset > 0
                        && is_frame(&block.payload)
                    {
                        older[MAX_OLDER - back] = Some(Older {
                            back: i64::try_from(back).unwrap_or(0),
                            offset: i64::from(block.offset),
                            payload: block.payload,
                        });
                    }
                }
                frame
            }
            _ => return None,
        };
        is_frame(&frame).then_some(Self { frame, older })
    }

    /// The oldest repeated frame that begins no more than `ticks` before the packet's own.
    pub(crate) fn oldest_within(&self, ticks: i64) -> Option<&Older> {
        self.older
            .iter()
            .flatten()
            .find(|older| older.offset <= ticks)
    }

    /// How many packets and how many ticks back those lie that this one repeats, also by its own codec, with `fec` of so
    /// many samples.
    pub(crate) fn offsets(&self, fec: Option<usize>) -> [Option<(u16, u32)>; MAX_OLDER] {
        let mut offsets = std::array::from_fn(|i| {
            let older = self.older[i].as_ref()?;
            Some((
                u16::try_from(older.back).ok()?,
                u32::try_from(older.offset).ok()?,
            ))
        });
        if offsets[MAX_OLDER - 1].is_none() {
            offsets[MAX_OLDER - 1] = fec.and_then(|len| Some((1, u32::try_from(len).ok()?)));
        }
        offsets
    }

    /// How many packets back the repetition reaches.
    pub(crate) fn depth(&self) -> usize {
        let first = self.older.iter().position(Option::is_some);
        first.map_or(0, |first| MAX_OLDER - first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protection_follows_loss_and_does_not_flap() {
        let depths = |max_depth| {
            let mut now = Protection::default();
            [0.0, 0.008, 0.02, 0.007, 0.1, 0.06, 0.04, 0.0].map(|loss| {
                now = now.at(loss, max_depth, false);
                (now.depth, now.fec)
            })
        };
        let (none, one, two) = ((0, false), (1, false), (2, false));
        assert_eq!(depths(2), [none, none, one, one, two, two, one, none]);
        assert_eq!(depths(1), [none, none, one, one, one, one, one, none]);
        let fec = (0, true);
        assert_eq!(depths(0), [none, none, fec, fec, fec, fec, fec, none]);
        assert_eq!(
            Protection::default().at(f32::NAN, 2, true),
            Protection::default()
        );
        let both = Protection {
            depth: 2,
            fec: true,
        };
        assert_eq!(Protection::default().at(0.1, 2, true), both);
    }

    #[test]
    fn what_is_repeated_is_found_where_it_belongs() {
        let mut repeats = Repeats::new();
        let mut out = BytesMut::new();
        assert!(
            !repeats.wrap(960, b"x", 2, 100, &mut out),
            "nothing to repeat"
        );
        let start = u32::MAX - 100;
        for (index, payload) in (0..).zip([&b"first"[..], b"second", b"third"]) {
            repeats.remember(
                start.wrapping_add(960 * index),
                Bytes::copy_from_slice(payload),
            );
        }
        let now = start.wrapping_add(3 * 960);
        assert!(repeats.wrap(now, b"fourth", 2, 100, &mut out));
        let packet = |payload: &BytesMut| MediaPacket {
            sequence: 3,
            timestamp: now,
            marker: false,
            codec: MediaCodec::OpusRed,
            payload: payload.clone().freeze(),
        };
        let speech = Speech::read(packet(&out), |_| true).unwrap();
        assert_eq!((&speech.frame[..], speech.depth()), (&b"fourth"[..], 2));
        let oldest = speech.oldest_within(i64::MAX).unwrap();
        assert_eq!(
            (&oldest.payload[..], oldest.back, oldest.offset),
            (&b"second"[..], 2, 1920)
        );
        let last = speech.oldest_within(960).unwrap();
        assert_eq!((&last.payload[..], last.back), (&b"third"[..], 1));
        assert!(speech.oldest_within(959).is_none());

        out.clear();
        assert!(
            repeats.wrap(now, b"fourth", 2, 17, &mut out),
            "only one fits"
        );
        assert_eq!(Speech::read(packet(&out), |_| true).unwrap().depth(), 1);
        out.clear();
        assert!(!repeats.wrap(now, b"fourth", 2, 10, &mut out));
        assert!(out.is_empty());
    }

    #[test]
    fn hostile_payloads_hold_no_speech() {
        let read = |payload: &'static [u8]| {
            let packet = MediaPacket {
                sequence: 0,
                timestamp: 0,
                marker: false,
                codec: MediaCodec::OpusRed,
                payload: Bytes::from_static(payload),
            };
            Speech::read(packet, |frame| !frame.is_empty())
        };
        assert!(read(b"").is_none());
        assert!(read(b"\xef\x00\x00").is_none(), "cut off");
        assert!(read(b"\x6f").is_none(), "an empty primary");
        assert!(read(b"\x00abc").is_none(), "another codec");
        // One block of no age and one of no length before the primary.
        let odd = read(b"\xef\x00\x00\x01\xef\x0f\x00\x00\x6fAB").unwrap();
        assert_eq!((&odd.frame[..], odd.depth()), (&b"B"[..], 0));
    }
}
