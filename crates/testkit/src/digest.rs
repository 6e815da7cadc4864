//! A name for everything that a world has sent.

/// How much is hashed at a time: several times as fast as message by message.
const AT_ONCE: usize = 64 * 1024;

/// A hash of all that was written to it, in that order.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    hasher: blake3::Hasher,
    pending: Vec<u8>,
}

impl Digest {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= AT_ONCE {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
    }

    /// Of all so far.
    pub(crate) fn finish(&self) -> [u8; 32] {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.pending);
        *hasher.finalize().as_bytes()
    }
}
