//! What a joiner gets instead of the past: the line of checkpoints, and the values at the last.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use roundtable_core::WallTime;
use roundtable_wire::limits::{MAX_FRAME_LEN, MAX_KEY_LEN};

use crate::{
    Certificate, CertificateError, CommandLog, Genesis, Key,
    certificate::{Line, MAX_FRAMES},
    faults::{__Broken, is_broken},
    frame::FULL_HEADER_LEN,
    prune::Values,
    roles::Roles,
    state::State,
};

const FORM: u8 = 1;

/// All that a log needs to go on from a stable checkpoint: what makes it and those before it stable, and
/// the value of every key there. Roles, heads and budgets are in the checkpoint itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// How many checkpoints come before the first of these.
    pub(crate) after: u64,
    pub(crate) certificates: Vec<Vec<Bytes>>,
    pub(crate) values: Values,
}

/// Why a snapshot was not used. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It ends too early, or goes on too long, or a length in it is out of bounds.
    #[error("the snapshot is malformed")]
    Malformed,
    /// A layout of a later version.
    #[error("form {0} of a snapshot is not known to this version")]
    Form(u8),
    /// It begins further on than this log's last checkpoint.
    #[error("the snapshot begins after checkpoint {0}, which is not known")]
    Gap(u64),
    /// A checkpoint of it is not stable.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Its values are not those that the writers have committed.
    #[error("the snapshot's values are not those of its checkpoint")]
    Values,
}

impl Snapshot {
    /// The value of every key at the last checkpoint, sorted.
    pub fn values(&self) -> impl Iterator<Item = (&Key, &Bytes)> {
        self.values.iter()
    }

    /// The last checkpoint's number.
    pub const fn number(&self) -> u64 {
        self.after + self.certificates.len() as u64
    }

    /// Reads a snapshot; nothing in it is verified.
    ///
    /// # Errors
    /// [`SnapshotError`]; any bytes are safe, and take memory in proportion to their number.
    pub fn decode(bytes: Bytes) -> Result<Self, SnapshotError> {
        let mut rest = Reader(bytes);
        let form = rest.u8()?;
        if form != FORM {
            return Err(SnapshotError::Form(form));
        }
        let after = rest.u64()?;
        let mut certificates = Vec::new();
        for _ in 0..rest.u32()? {
            let mut frames = Vec::new();
            let count = rest.u32()?;
            if !(1..=MAX_FRAMES).contains(&(count as usize)) {
                return Err(SnapshotError::Malformed);
            }
            for _ in 0..count {
                let len = rest.u32()?;
                let frame = rest.bytes(len, MAX_FRAME_LEN)?;
                // A list of empty frames would take many times the memory of its bytes.
                if frame.len() < FULL_HEADER_LEN {
                    return Err(SnapshotError::Malformed);
                }
                frames.push(frame);
            }
            certificates.push(frames);
        }
        let mut values = BTreeMap::new();
        while !rest.0.is_empty() {
            let key_type = rest.u16()?;
            let len = rest.u16()?;
            let key = Key::new(key_type, rest.bytes(len.into(), MAX_KEY_LEN)?);
            let len = rest.u32()?;
            let value = rest.bytes(len, usize::MAX)?;
            let sorted = values.last_key_value().is_none_or(|(last, _)| *last < key);
            if !sorted {
                return Err(SnapshotError::Malformed);
            }
            values.insert(key, value);
        }
        Ok(Self {
            after,
            certificates,
            values,
        })
    }

    /// The layout that [`decode`](Self::decode) reads.
    pub fn encode(&self) -> Bytes {
        let narrow = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let mut bytes = BytesMut::new();
        bytes.put_u8(FORM);
        bytes.put_u64_le(self.after);
        bytes.put_u32_le(narrow(self.certificates.len()));
        for frames in &self.certificates {
            bytes.put_u32_le(narrow(frames.len()));
            for frame in frames {
                bytes.put_u32_le(narrow(frame.len()));
                bytes.put_slice(frame);
            }
        }
        for (key, value) in &self.values {
            bytes.put_u16_le(key.key_type);
            bytes.put_u16_le(u16::try_from(key.bytes.len()).unwrap_or(u16::MAX));
            bytes.put_slice(&key.bytes);
            bytes.put_u32_le(narrow(value.len()));
            bytes.put_slice(value);
        }
        bytes.freeze()
    }

    /// The line of checkpoints, verified from those that are known.
    fn line(&self, from: &Line, genesis: &Genesis) -> Result<Line, SnapshotError> {
        let mut line = from.clone();
        let known = line.last().number.checked_sub(self.after);
        let known = known.ok_or(SnapshotError::Gap(self.after))?;
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        for frames in self.certificates.iter().skip(known) {
            let certificate = Certificate::read_after(frames.iter().cloned(), &line, genesis)?;
            line.extend(certificate, genesis)?;
        }
        Ok(line)
    }
}

impl CommandLog {
    /// What a log with so many checkpoints needs to go on from this one's last; `None` if it has them
    /// all.
    pub fn snapshot(&self, after: u64) -> Option<Snapshot> {
        let certificates = self.line.certificates();
        let new = certificates.get(usize::try_from(after).ok()?..)?;
        let frames = |certificate: &Certificate| {
            let frames = certificate.frames().iter();
            frames.map(|frame| frame.bytes().clone()).collect()
        };
        (!new.is_empty()).then(|| Snapshot {
            after,
            certificates: new.iter().map(frames).collect(),
            values: self.state.base(),
        })
    }

    /// The length in bytes of what [`snapshot`](Self::snapshot) encodes to, found without making it.
    pub fn snapshot_len(&self, after: u64) -> Option<u64> {
        let certificates = self.line.certificates();
        let new = certificates.get(usize::try_from(after).ok()?..)?;
        let of_frames = |certificate: &Certificate| {
            let frames = certificate.frames().iter();
            4 + frames.map(|frame| 4 + frame.bytes().len()).sum::<usize>()
        };
        let certificates: usize = new.iter().map(of_frames).sum();
        let of_value = |(key, value): (&Key, &[u8])| 8 + key.bytes.len() + value.len();
        let values: usize = self.state.based().map(of_value).sum();
        (!new.is_empty()).then(|| (13 + certificates + values) as u64)
    }

    /// Goes on from a snapshot, from whoever it comes: every signature and every consent of the line of
    /// checkpoints is verified, and the values are compared with what the writers have committed. What
    /// this log holds above the last of them stays. Says whether it was news.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing has changed then.
    pub fn install(&mut self, wall: WallTime, snapshot: &Snapshot) -> Result<bool, SnapshotError> {
        let line = snapshot.line(&self.line, &self.genesis)?;
        if line.last().number == self.line.last().number {
            return Ok(false);
        }
        if snapshot.number() != line.last().number {
            return Err(SnapshotError::Gap(snapshot.number()));
        }
        let last = line.last();
        let state = State::after(&snapshot.values, &self.schema);
        let roles = Roles::after(last, &self.genesis);
        let same = state.hash(&self.genesis.hash(), &roles) == last.state;
        if !same && !is_broken(__Broken::TrustsSnapshots) {
            return Err(SnapshotError::Values);
        }
        self.behind = None;
        self.rebase(line, &snapshot.values, wall);
        self.settle(wall);
        Ok(true)
    }
}

/// Takes fields off the front of bytes.
struct Reader(Bytes);

impl Reader {
    fn bytes(&mut self, len: u32, max: usize) -> Result<Bytes, SnapshotError> {
        let len = len as usize;
        if len > max || len > self.0.len() {
            return Err(SnapshotError::Malformed);
        }
        Ok(self.0.split_to(len))
    }

    fn u8(&mut self) -> Result<u8, SnapshotError> {
        self.0.try_get_u8().map_err(|_| SnapshotError::Malformed)
    }

    fn u16(&mut self) -> Result<u16, SnapshotError> {
        self.0
            .try_get_u16_le()
            .map_err(|_| SnapshotError::Malformed)
    }

    fn u32(&mut self) -> Result<u32, SnapshotError> {
        self.0
            .try_get_u32_le()
            .map_err(|_| SnapshotError::Malformed)
    }

    fn u64(&mut self) -> Result<u64, SnapshotError> {
        self.0
            .try_get_u64_le()
            .map_err(|_| SnapshotError::Malformed)
    }
}
