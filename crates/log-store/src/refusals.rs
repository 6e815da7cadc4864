//! What peers have sent that the log refused: how often, and of the last ones what their headers said.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use roundtable_command_log::{FrameError, GenesisHash, Header};
use roundtable_core::{AuthorId, WallTime};

use crate::Record;

/// The section that they are kept in.
pub(crate) const SECTION: u16 = 2;
/// The first byte of it.
const LAYOUT: u8 = 1;
/// How many counts are kept. After that the lowest one, of equal ones the oldest, is added to the rest.
const MAX_TALLIES: usize = 256;
/// Of how many refusals it is kept what the frames' headers said. After that the oldest one of whoever has most goes.
const MAX_LAST: usize = 64;

const CULPRIT_LEN: usize = 33;
const TALLY_LEN: usize = CULPRIT_LEN + 1 + 3 * 8;
const FACTS_LEN: usize = 32 + 8 + 4 + 8 + 8;

/// Who is at fault for a frame that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Culprit {
    /// The author: it has signed the frame.
    Author(AuthorId),
    /// Whoever sent it; nothing is said of the author that the frame names.
    Sender(AuthorId),
}

/// A frame that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// When, by this machine's clock.
    pub at: WallTime,
    /// Whose fault it is.
    pub culprit: Culprit,
    /// [`FrameError::code`].
    pub code: u8,
    /// What the frame says of itself, if that could be read.
    pub claims: Option<Claims>,
}

/// What the header of a refused frame says. Nothing proves it where the sender is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims {
    /// Who wrote it.
    pub author: AuthorId,
    /// The number of its first command.
    pub first_nonce: u64,
    /// How many commands it holds.
    pub count: u32,
    /// Their Lamport time.
    pub lamport: u64,
    /// When it was signed.
    pub wall_ms: u64,
}

/// How often frames were refused for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// When first.
    pub first: WallTime,
    /// When last.
    pub last: WallTime,
}

/// The refusals of one room, in bounded space: counts by culprit and code, and the last ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    tallies: BTreeMap<(Culprit, u8), Tally>,
    /// Those that are not counted by culprit any more.
    rest: u64,
    last: VecDeque<Refusal>,
}

impl Refusals {
    /// Notes a refusal.
    pub fn note(&mut self, refusal: Refusal) {
        let Refusal {
            at, culprit, code, ..
        } = refusal;
        let counted = (culprit, code);
        if self.tallies.len() >= MAX_TALLIES && !self.tallies.contains_key(&counted) {
            self.drop_least();
        }
        let tally = self.tallies.entry(counted).or_insert(Tally {
            count: 0,
            first: at,
            last: at,
        });
        tally.count = tally.count.saturating_add(1);
        tally.last = at;
        self.last.push_back(refusal);
        if self.last.len() > MAX_LAST {
            self.drop_of_most();
        }
    }

    /// How often what was refused, by culprit and code.
    pub fn tallies(&self) -> impl Iterator<Item = (Culprit, u8, &Tally)> {
        let tallies = self.tallies.iter();
        tallies.map(|((culprit, code), tally)| (*culprit, *code, tally))
    }

    /// How many more were refused, of culprits of whom there are too many to count each.
    pub const fn rest(&self) -> u64 {
        self.rest
    }

    /// The last ones, as they came.
    pub fn last(&self) -> impl Iterator<Item = &Refusal> {
        self.last.iter()
    }

    /// What a store keeps of them.
    pub fn record(&self, genesis: GenesisHash) -> Record {
        let mut content = BytesMut::new();
        content.put_u8(LAYOUT);
        content.put_u64_le(self.rest);
        content.put_u16_le(u16::try_from(self.tallies.len()).unwrap_or(u16::MAX));
        for ((culprit, code), tally) in &self.tallies {
            culprit.put(&mut content);
            content.put_u8(*code);
            content.put_u64_le(tally.count);
            content.put_u64_le(tally.first.as_millis());
            content.put_u64_le(tally.last.as_millis());
        }
        for refusal in &self.last {
            refusal.put(&mut content);
        }
        Record::Section {
            genesis,
            section: SECTION,
            content: content.freeze(),
        }
    }

    /// What can be read of them.
    pub(crate) fn decode(content: &Bytes) -> Self {
        let mut refusals = Self::default();
        let Some(mut content) = content.strip_prefix(&[LAYOUT]) else {
            return refusals;
        };
        // What is missing reads as nothing: this is for people, and no rule hangs on it.
        let _ = refusals.read(&mut content);
        refusals
    }

    fn read(&mut self, content: &mut &[u8]) -> Option<()> {
        self.rest = content.try_get_u64_le().ok()?;
        let tallies = content.try_get_u16_le().ok()?;
        for _ in 0..usize::from(tallies).min(MAX_TALLIES) {
            if content.remaining() < TALLY_LEN {
                return None;
            }
            let (culprit, code) = (Culprit::get(content)?, content.get_u8());
            let tally = Tally {
                count: content.get_u64_le(),
                first: WallTime::from_millis(content.get_u64_le()),
                last: WallTime::from_millis(content.get_u64_le()),
            };
            self.tallies.insert((culprit, code), tally);
        }
        while content.has_remaining() && self.last.len() < MAX_LAST {
            self.last.push_back(Refusal::get(content)?);
        }
        Some(())
    }

    fn drop_least(&mut self) {
        let least = self
            .tallies
            .iter()
            .min_by_key(|(_, tally)| (tally.count, tally.last));
        if let Some((least, tally)) = least.map(|(least, tally)| (*least, *tally)) {
            self.rest = self.rest.saturating_add(tally.count);
            self.tallies.remove(&least);
        }
    }

    fn drop_of_most(&mut self) {
        let mut counts: BTreeMap<Culprit, usize> = BTreeMap::new();
        for refusal in &self.last {
            *counts.entry(refusal.culprit).or_default() += 1;
        }
        let most = counts.values().max().copied();
        let oldest = self
            .last
            .iter()
            .position(|refusal| counts.get(&refusal.culprit).copied() == most);
        self.last.remove(oldest.unwrap_or_default());
    }
}

impl Refusal {
    /// A short name of the code, if this version knows it.
    pub fn name(&self) -> Option<&'static str> {
        FrameError::name_of(self.code)
    }

    fn put(&self, content: &mut impl BufMut) {
        content.put_u64_le(self.at.as_millis());
        self.culprit.put(content);
        content.put_u8(self.code);
        content.put_u8(u8::from(self.claims.is_some()));
        if let Some(claims) = &self.claims {
            content.put_slice(claims.author.as_bytes());
            content.put_u64_le(claims.first_nonce);
            content.put_u32_le(claims.count);
            content.put_u64_le(claims.lamport);
            content.put_u64_le(claims.wall_ms);
        }
    }

    fn get(content: &mut &[u8]) -> Option<Self> {
        let at = WallTime::from_millis(content.try_get_u64_le().ok()?);
        let culprit = Culprit::get(content)?;
        let code = content.try_get_u8().ok()?;
        let claims = match content.try_get_u8().ok()? {
            0 => None,
            _ => Some(Claims::get(content)?),
        };
        Some(Self {
            at,
            culprit,
            code,
            claims,
        })
    }
}

impl Claims {
    fn get(content: &mut &[u8]) -> Option<Self> {
        (content.remaining() >= FACTS_LEN).then(|| Self {
            author: author(content),
            first_nonce: content.get_u64_le(),
            count: content.get_u32_le(),
            lamport: content.get_u64_le(),
            wall_ms: content.get_u64_le(),
        })
    }
}

impl From<&Header> for Claims {
    fn from(header: &Header) -> Self {
        Self {
            author: header.author,
            first_nonce: header.first_nonce,
            count: header.count,
            lamport: header.lamport,
            wall_ms: header.wall_ms,
        }
    }
}

impl Culprit {
    fn put(self, content: &mut impl BufMut) {
        let (kind, author) = match self {
            Self::Author(author) => (0, author),
            Self::Sender(author) => (1, author),
        };
        content.put_u8(kind);
        content.put_slice(author.as_bytes());
    }

    fn get(content: &mut &[u8]) -> Option<Self> {
        if content.remaining() < CULPRIT_LEN {
            return None;
        }
        let kind = content.get_u8();
        let author = author(content);
        Some(match kind {
            0 => Self::Author(author),
            _ => Self::Sender(author),
        })
    }
}

/// An author's key, of which the caller has checked that it is there.
fn author(content: &mut impl Buf) -> AuthorId {
    let mut bytes = [0; 32];
    content.copy_to_slice(&mut bytes);
    AuthorId::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in helpers of tests, too

    use super::*;

    fn somebody(number: u16) -> AuthorId {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        AuthorId::from_bytes(key)
    }

    fn refusal(at_ms: u64, culprit: Culprit) -> Refusal {
        Refusal {
            at: WallTime::from_millis(at_ms),
            culprit,
            code: 13,
            claims: Some(Claims {
                author: somebody(7),
                first_nonce: at_ms,
                count: 1,
                lamport: 2,
                wall_ms: 3,
            }),
        }
    }

    fn content(refusals: &Refusals) -> Bytes {
        match refusals.record(GenesisHash::from_bytes([0; 32])) {
            Record::Section { content, .. } => content,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_noted_is_read_again_and_what_is_cut_off_harms_nobody() {
        let mut refusals = Refusals::default();
        refusals.note(refusal(1, Culprit::Author(somebody(1))));
        refusals.note(Refusal {
            claims: None,
            code: 6,
            ..refusal(2, Culprit::Sender(somebody(2)))
        });
        let content = content(&refusals);
        assert_eq!(Refusals::decode(&content), refusals);
        for end in 0..content.len() {
            Refusals::decode(&content.slice(..end));
        }
    }

    #[test]
    fn a_flood_of_culprits_takes_bounded_space_and_hides_nobody_who_goes_on() {
        let mut refusals = Refusals::default();
        let loud = Culprit::Author(somebody(0));
        for at_ms in 0..10 {
            refusals.note(refusal(at_ms, loud));
        }
        for number in 1..=20_000 {
            let culprit = Culprit::Sender(somebody(number));
            refusals.note(refusal(u64::from(number) + 10, culprit));
        }
        assert!(content(&refusals).len() < 32 << 10);
        let counted: u64 = refusals.tallies().map(|(.., tally)| tally.count).sum();
        assert_eq!(counted + refusals.rest(), 20_010, "each is counted");
        let (.., tally) = refusals.tallies().find(|(who, ..)| *who == loud).unwrap();
        assert_eq!((tally.count, tally.last), (10, WallTime::from_millis(9)));
    }

    #[test]
    fn one_culprits_flood_does_not_hide_what_another_did() {
        let mut refusals = Refusals::default();
        let quiet = refusal(0, Culprit::Author(somebody(1)));
        refusals.note(quiet);
        for at_ms in 1..1000 {
            refusals.note(refusal(at_ms, Culprit::Sender(somebody(2))));
        }
        assert_eq!(refusals.last().next(), Some(&quiet));
        assert_eq!(refusals.last().count(), MAX_LAST);
        assert_eq!(
            refusals.last().last().unwrap().at,
            WallTime::from_millis(999)
        );
    }
}
