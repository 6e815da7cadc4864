//! Memory for packets, used again when all packets in it are gone.

use bytes::BytesMut;

/// Memory is taken in pieces of this many bytes: three seconds of speech.
const PIECE: usize = 16 * 1024;

/// Two pieces: while packets are cut from one, those of the other go their way and are dropped. Only where some are kept for
/// longer is memory allocated anew.
#[derive(Debug)]
pub(crate) struct Arena {
    current: BytesMut,
    other: BytesMut,
}

impl Arena {
    /// Takes all the memory that is needed where packets are not kept.
    pub(crate) fn new() -> Self {
        let piece = || {
            let mut piece = BytesMut::with_capacity(PIECE);
            // The first cut allocates, too.
            drop(piece.split());
            piece
        };
        Self {
            current: piece(),
            other: piece(),
        }
    }

    /// An empty buffer with room for so many bytes, at most 16 KiB, to be cut from by `split`.
    pub(crate) fn buffer(&mut self, room: usize) -> &mut BytesMut {
        self.current.clear();
        if self.current.capacity() < room {
            std::mem::swap(&mut self.current, &mut self.other);
            if !self.current.try_reclaim(PIECE) {
                self.current = BytesMut::with_capacity(PIECE);
            }
        }
        &mut self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_once_its_packets_are_gone() {
        let mut arena = Arena::new();
        let mut cut = || {
            let buffer = arena.buffer(4 * 1024);
            buffer.resize(4 * 1024, 7);
            buffer.split().freeze()
        };
        let first: Vec<_> = (0..4).map(|_| cut()).collect();
        let places: Vec<_> = first.iter().map(|packet| packet.as_ptr()).collect();
        let kept: Vec<_> = (0..4).map(|_| cut()).collect();
        drop(first);
        let again: Vec<_> = (0..4).map(|_| cut()).collect();
        assert_eq!(
            places,
            again
                .iter()
                .map(|packet| packet.as_ptr())
                .collect::<Vec<_>>()
        );
        // What is kept is not written over.
        cut();
        assert!(kept.iter().flatten().all(|byte| *byte == 7));
    }
}
