//! Fixed layouts: little-endian fields, one after the other, without padding. And varints.

use bytes::BufMut;

/// Takes fields off the front of bytes that are known to be long enough.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Starts at the front of `bytes`.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `N` bytes; zeros if the caller has not checked the length.
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => {
                debug_assert!(false, "the caller checks the length");
                [0; N]
            }
        }
    }

    /// What has not been taken.
    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// LEB128: seven bits a byte, the lowest first, the highest bit set on all but the last.
pub(crate) fn put_varint(bytes: &mut impl BufMut, mut number: u64) {
    while number >= 0x80 {
        bytes.put_u8(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.put_u8(number.to_le_bytes()[0]);
}

/// `None` if the bytes end too early or say more than 64 bits.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
