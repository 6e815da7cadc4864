//! Which keys a room has, and how concurrent commands on one key resolve.

use std::collections::BTreeMap;

use crate::{SchemaHash, layout::Fields};

const CONTEXT: &[u8] = b"roundtable/schema/v1\0";
/// The first byte of an encoded schema.
const FORM: u8 = 1;

/// How the commands on one key make its value. Order is (Lamport, author, nonce).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// The last command in order wins.
    LastWriteWins,
    /// The first command in order wins; all others are refused. A winner may still lose to an
    /// earlier one that arrives late.
    Reject,
    /// All commands are folded in order.
    Merge(MergeRule),
}

/// What a fold does. Integers only: every machine must come to the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MergeRule {
    /// Concatenates the values. A value that would make the whole longer than `max_len` bytes is
    /// skipped.
    Append {
        /// The longest whole, in bytes.
        max_len: u32,
    },
    /// Adds values, each an `i64` in 8 little-endian bytes, wrapping.
    Add,
    /// The largest value, each an `i64` in 8 little-endian bytes.
    Max,
    /// The smallest value, each an `i64` in 8 little-endian bytes.
    Min,
}

impl Strategy {
    /// Whether `value` has the form that this strategy can use. A command with another value
    /// changes nothing.
    pub const fn accepts(self, value: &[u8]) -> bool {
        match self {
            Self::LastWriteWins | Self::Reject => true,
            Self::Merge(MergeRule::Append { max_len }) => value.len() <= max_len as usize,
            Self::Merge(MergeRule::Add | MergeRule::Max | MergeRule::Min) => value.len() == 8,
        }
    }

    /// Strategy and parameter as they enter the schema's hash.
    const fn encoded(self) -> (u8, u32) {
        match self {
            Self::LastWriteWins => (1, 0),
            Self::Reject => (2, 0),
            Self::Merge(MergeRule::Append { max_len }) => (3, max_len),
            Self::Merge(MergeRule::Add) => (4, 0),
            Self::Merge(MergeRule::Max) => (5, 0),
            Self::Merge(MergeRule::Min) => (6, 0),
        }
    }

    const fn decoded(number: u8, parameter: u32) -> Option<Self> {
        Some(match (number, parameter) {
            (1, 0) => Self::LastWriteWins,
            (2, 0) => Self::Reject,
            (3, max_len) => Self::Merge(MergeRule::Append { max_len }),
            (4, 0) => Self::Merge(MergeRule::Add),
            (5, 0) => Self::Merge(MergeRule::Max),
            (6, 0) => Self::Merge(MergeRule::Min),
            _ => return None,
        })
    }
}

/// A type of key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyType {
    /// For people: logs, audits.
    pub name: String,
    /// How commands on such a key resolve.
    pub strategy: Strategy,
}

/// Why a schema was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// Two key types have the same id.
    #[error("key type {0} is defined twice")]
    DuplicateId(u16),
    /// A name is empty or longer than 64 bytes.
    #[error("the name of key type {0} has {1} bytes, not 1 to 64")]
    Name(u16, usize),
    /// A schema without key types.
    #[error("a schema has at least one key type")]
    Empty,
    /// Bytes that do not encode a schema, or one of a later version.
    #[error("these bytes are no schema of this version")]
    Encoding,
}

/// The key types of a room and the version that the application gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    major: u16,
    minor: u16,
    types: BTreeMap<u16, KeyType>,
    hash: SchemaHash,
}

impl Schema {
    /// Starts a schema of version `major`.`minor`. Peers with other key types or another major
    /// version are refused; the minor version tells people apart and peers nothing.
    pub const fn builder(major: u16, minor: u16) -> SchemaBuilder {
        SchemaBuilder {
            major,
            minor,
            types: Vec::new(),
        }
    }

    /// The type with this id.
    pub fn key_type(&self, id: u16) -> Option<&KeyType> {
        self.types.get(&id)
    }

    /// The strategy of keys of this type.
    pub fn strategy(&self, id: u16) -> Option<Strategy> {
        self.types.get(&id).map(|key_type| key_type.strategy)
    }

    /// All types by id.
    pub fn key_types(&self) -> impl Iterator<Item = (u16, &KeyType)> {
        self.types.iter().map(|(id, key_type)| (*id, key_type))
    }

    /// Major and minor version.
    pub const fn version(&self) -> (u16, u16) {
        (self.major, self.minor)
    }

    /// Names everything of this schema but its minor version.
    pub const fn hash(&self) -> SchemaHash {
        self.hash
    }

    /// The schema as bytes, to be kept beside the log that it explains.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORM];
        bytes.extend_from_slice(&self.major.to_le_bytes());
        bytes.extend_from_slice(&self.minor.to_le_bytes());
        for (id, key_type) in &self.types {
            let (strategy, parameter) = key_type.strategy.encoded();
            let name = key_type.name.as_bytes();
            bytes.extend_from_slice(&id.to_le_bytes());
            bytes.push(strategy);
            bytes.extend_from_slice(&parameter.to_le_bytes());
            bytes.extend(name.len().to_le_bytes().first());
            bytes.extend_from_slice(name);
        }
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`SchemaError::Encoding`], or what [`SchemaBuilder::build`] says.
    pub fn decode(bytes: &[u8]) -> Result<Self, SchemaError> {
        /// Form, major and minor version.
        const HEAD_LEN: usize = 1 + 2 + 2;
        /// A type without its name: id, strategy, parameter, the name's length.
        const TYPE_LEN: usize = 2 + 1 + 4 + 1;
        let head = bytes.split_at_checked(HEAD_LEN);
        let (head, mut rest) = head.ok_or(SchemaError::Encoding)?;
        if head[0] != FORM {
            return Err(SchemaError::Encoding);
        }
        let mut versions = Fields::new(&head[1..]);
        let mut builder = Self::builder(versions.u16(), versions.u16());
        while !rest.is_empty() {
            let (fixed, tail) = rest
                .split_at_checked(TYPE_LEN)
                .ok_or(SchemaError::Encoding)?;
            let mut fields = Fields::new(fixed);
            let (id, strategy, parameter) = (fields.u16(), fields.u8(), fields.u32());
            let strategy = Strategy::decoded(strategy, parameter).ok_or(SchemaError::Encoding)?;
            let (name, tail) = tail
                .split_at_checked(fields.u8().into())
                .ok_or(SchemaError::Encoding)?;
            let name = std::str::from_utf8(name).map_err(|_| SchemaError::Encoding)?;
            builder = builder.key_type(id, name, strategy);
            rest = tail;
        }
        builder.build()
    }
}

/// Collects the key types of a [`Schema`].
#[derive(Debug, Clone)]
pub struct SchemaBuilder {
    major: u16,
    minor: u16,
    types: Vec<(u16, KeyType)>,
}

impl SchemaBuilder {
    /// Adds a type. Ids never change their meaning within one major version.
    #[must_use]
    pub fn key_type(mut self, id: u16, name: &str, strategy: Strategy) -> Self {
        let name = name.to_owned();
        self.types.push((id, KeyType { name, strategy }));
        self
    }

    /// Checks the types and hashes them.
    ///
    /// # Errors
    /// [`SchemaError`] names the type that is wrong.
    pub fn build(self) -> Result<Schema, SchemaError> {
        let mut types = BTreeMap::new();
        for (id, key_type) in self.types {
            if !(1..=64).contains(&key_type.name.len()) {
                return Err(SchemaError::Name(id, key_type.name.len()));
            }
            if types.insert(id, key_type).is_some() {
                return Err(SchemaError::DuplicateId(id));
            }
        }
        if types.is_empty() {
            return Err(SchemaError::Empty);
        }
        Ok(Schema {
            major: self.major,
            minor: self.minor,
            hash: hash(self.major, &types),
            types,
        })
    }
}

fn hash(major: u16, types: &BTreeMap<u16, KeyType>) -> SchemaHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(CONTEXT);
    hasher.update(&major.to_le_bytes());
    for (id, key_type) in types {
        let (strategy, parameter) = key_type.strategy.encoded();
        hasher.update(&id.to_le_bytes());
        hasher.update(&(key_type.name.len() as u64).to_le_bytes());
        hasher.update(key_type.name.as_bytes());
        hasher.update(&[strategy]);
        hasher.update(&parameter.to_le_bytes());
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(major: u16, minor: u16, strategy: Strategy) -> Schema {
        Schema::builder(major, minor)
            .key_type(1, "stroke", Strategy::LastWriteWins)
            .key_type(2, "claim", strategy)
            .build()
            .unwrap()
    }

    #[test]
    fn the_hash_names_all_but_the_minor_version() {
        let hash = schema(1, 0, Strategy::Reject).hash();
        assert_eq!(schema(1, 7, Strategy::Reject).hash(), hash);
        assert_ne!(schema(2, 0, Strategy::Reject).hash(), hash);
        assert_ne!(schema(1, 0, Strategy::LastWriteWins).hash(), hash);
        let short = Strategy::Merge(MergeRule::Append { max_len: 1 });
        let long = Strategy::Merge(MergeRule::Append { max_len: 2 });
        assert_ne!(schema(1, 0, short).hash(), schema(1, 0, long).hash());
    }

    #[test]
    fn the_order_of_definition_does_not_matter() {
        let other = Schema::builder(1, 0)
            .key_type(2, "claim", Strategy::Reject)
            .key_type(1, "stroke", Strategy::LastWriteWins)
            .build()
            .unwrap();
        assert_eq!(other.hash(), schema(1, 0, Strategy::Reject).hash());
    }

    #[test]
    fn a_schema_survives_being_stored() {
        let merges = [
            MergeRule::Append { max_len: 300 },
            MergeRule::Add,
            MergeRule::Max,
            MergeRule::Min,
        ];
        for strategy in merges
            .map(Strategy::Merge)
            .into_iter()
            .chain([Strategy::Reject])
        {
            let schema = schema(3, 4, strategy);
            let bytes = schema.encode();
            assert_eq!(Schema::decode(&bytes), Ok(schema));
            for cut in 0..bytes.len() {
                // A cut between two types leaves a smaller schema, whose hash is another.
                assert_ne!(Schema::decode(&bytes[..cut]), Schema::decode(&bytes));
            }
        }
    }

    #[test]
    fn bad_schemas_are_refused() {
        let twice = Schema::builder(1, 0)
            .key_type(1, "a", Strategy::Reject)
            .key_type(1, "b", Strategy::Reject);
        assert_eq!(twice.build(), Err(SchemaError::DuplicateId(1)));
        let unnamed = Schema::builder(1, 0).key_type(1, "", Strategy::Reject);
        assert_eq!(unnamed.build(), Err(SchemaError::Name(1, 0)));
        assert_eq!(Schema::builder(1, 0).build(), Err(SchemaError::Empty));
    }
}
