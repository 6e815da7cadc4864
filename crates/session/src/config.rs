//! How a session is set up.

use std::{ops::RangeInclusive, time::Duration};

use ed25519_dalek::SigningKey;
use roundtable_command_log::{
    Genesis, GenesisError, GenesisHash, GenesisParams, OpenError, Schema,
};
use roundtable_core::{PeerId, RoomId};
use roundtable_wire::session::{MAX_CAPABILITIES, MAX_CAPABILITY_LEN};

use crate::fetch::MAX_LEN;

/// Most capabilities of the user's; the session adds its own two.
const MAX_NAMES: usize = MAX_CAPABILITIES - 2;

/// Where the room's genesis comes from.
#[derive(Debug, Clone)]
pub enum GenesisSource {
    /// It is at hand, and vouched for.
    Known(Genesis),
    /// It is at hand from an earlier session, and nobody vouches for it.
    Remembered(Genesis),
    /// An invite carries its hash; a peer will show it.
    Invited(GenesisHash),
    /// This peer founds the room, for others to be invited to.
    Create(GenesisParams),
    /// Whoever finds the room empty creates it with these parameters; the others take it from
    /// their first handshake, on trust. If its creator leaves before anyone has seen it, those who
    /// have waited together for 10 s have one among them create it. The room's wall time is that of its creation.
    FirstCome(GenesisParams),
}

/// Everything a [`Session`](crate::Session) needs to know from the start.
#[derive(Clone)]
pub struct SessionConfig {
    pub(crate) peer_id: PeerId,
    pub(crate) room: RoomId,
    pub(crate) signing_key: SigningKey,
    pub(crate) schema: Schema,
    pub(crate) genesis: GenesisSource,
    pub(crate) seed: [u8; 32],
    pub(crate) capabilities: Vec<String>,
    pub(crate) open_room: bool,
    pub(crate) elision: bool,
    pub(crate) datagrams: bool,
    pub(crate) handshake_deadline: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) heads_interval: Duration,
    pub(crate) flush_interval: Duration,
    pub(crate) checkpoint_interval: Option<Duration>,
    pub(crate) max_snapshot_len: u64,
    pub(crate) max_peers: usize,
}

/// A setting that does not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A duration is out of its range.
    #[error("{name} is {actual:?}; it must be between {:?} and {:?}", range.start(), range.end())]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// Its value.
        actual: Duration,
        /// What works.
        range: RangeInclusive<Duration>,
    },
    /// Too many capabilities, or one with too long a name.
    #[error("at most {MAX_NAMES} capabilities of at most {MAX_CAPABILITY_LEN} bytes")]
    Capabilities,
    /// No room can be created with these parameters.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// This peer cannot take part in the room.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl SessionConfig {
    /// A session of `peer_id` in `room`, with every other setting at its default.
    ///
    /// `seed` is 32 bytes from the system's randomness, **fresh for every session**: handshake
    /// nonces and the ids of created rooms come from it.
    pub fn new(
        peer_id: PeerId,
        room: RoomId,
        signing_key: SigningKey,
        schema: Schema,
        genesis: GenesisSource,
        seed: [u8; 32],
    ) -> Self {
        Self {
            peer_id,
            room,
            signing_key,
            schema,
            genesis,
            seed,
            capabilities: Vec::new(),
            open_room: true,
            elision: true,
            datagrams: true,
            handshake_deadline: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(1),
            heads_interval: Duration::from_secs(2),
            flush_interval: Duration::from_millis(11),
            checkpoint_interval: None,
            max_snapshot_len: MAX_LEN,
            max_peers: 10,
        }
    }

    /// What this peer can do, as its hello says beside what the session itself can do. Default none, at
    /// most 30 names of 64 bytes.
    pub fn with_capabilities(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.capabilities = names.into_iter().map(Into::into).collect();
        self
    }

    /// Whether this peer, while it is an Admin, makes an Editor of each peer of lower role that
    /// completes a handshake. Default true: everyone in the room may edit.
    pub fn with_open_room(mut self, open: bool) -> Self {
        self.open_room = open;
        self
    }

    /// Whether command frames leave out, on a link, what the other end remembers from earlier ones, if it
    /// reads such frames too. Default true. Saves about 115 bytes a frame; costs 11 KB a link and direction.
    pub fn with_elision(mut self, elision: bool) -> Self {
        self.elision = elision;
        self
    }

    /// Whether commands are repeated in datagrams 20 ms after they were sent, so that a lost packet delays them no longer than that, to
    /// peers that read such; and whether peers that fall silent are asked in datagrams, too. Default true. Costs one message of up to
    /// 1,100 bytes a peer in 20 ms in which frames were sent that fit into it.
    pub fn with_datagrams(mut self, datagrams: bool) -> Self {
        self.datagrams = datagrams;
        self
    }

    /// How long a peer may take to complete the handshake. Default 5 s, 100 ms to 60 s.
    pub fn with_handshake_deadline(mut self, deadline: Duration) -> Self {
        self.handshake_deadline = deadline;
        self
    }

    /// How often each link is pinged; three unanswered pings close it. Default 1 s, 50 ms to 60 s.
    /// Costs about 100 bytes a ping and link, each way.
    pub fn with_heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// How often peers compare what they hold. Default 2 s, 50 ms to 60 s. Costs 72 bytes an
    /// author and peer; bounds how long a frame takes to reach a peer without a link to its author.
    pub fn with_heads_interval(mut self, interval: Duration) -> Self {
        self.heads_interval = interval;
        self
    }

    /// How long a submitted command waits for others to share its signature, unless a frame is full (256
    /// commands or 72 KiB) before that. Default 11 ms, 0 to 1 s. Longer saves signatures and bytes, and adds to the
    /// latency of every command: within the author's budget it is sent after at most one interval, and where it
    /// arrives it is in the state after at most one more.
    pub fn with_flush_interval(mut self, interval: Duration) -> Self {
        self.flush_interval = interval;
        self
    }

    /// How often this peer, while it is an Admin, proposes that what everyone has had the time to see become
    /// final, if anything was written since the last time. Default never, 10 s to a day. Costs every writer two
    /// signatures and about 1 KB each time, and what is final keeps that in the log for ever.
    pub fn with_checkpoint_interval(mut self, interval: Duration) -> Self {
        self.checkpoint_interval = Some(interval);
        self
    }

    /// The longest snapshot, in bytes, that this peer fetches to go on from a checkpoint, and that it makes for others. Default, and
    /// most, 256 MiB; less bounds the memory that either takes. Of a longer one
    /// [`Event::SnapshotTooLong`](crate::Event::SnapshotTooLong) tells.
    pub fn with_max_snapshot_len(mut self, bytes: u64) -> Self {
        self.max_snapshot_len = bytes.min(MAX_LEN);
        self
    }

    /// How many peers the room has at most, this one included. Default 10. A peer beyond that is refused with
    /// [`CloseCode::ROOM_FULL`](roundtable_core::CloseCode::ROOM_FULL). Everyone is linked with everyone, so voice costs each peer as many
    /// packets as there are others.
    pub fn with_max_peers(mut self, peers: usize) -> Self {
        self.max_peers = peers;
        self
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`ConfigError`] names the first that does not work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let millis = Duration::from_millis;
        let minute = Duration::from_secs(60);
        let durations = [
            (
                "handshake_deadline",
                self.handshake_deadline,
                millis(100)..=minute,
            ),
            (
                "heartbeat_interval",
                self.heartbeat_interval,
                millis(50)..=minute,
            ),
            ("heads_interval", self.heads_interval, millis(50)..=minute),
            (
                "flush_interval",
                self.flush_interval,
                Duration::ZERO..=millis(1000),
            ),
        ];
        let checkpoint = self.checkpoint_interval.map(|interval| {
            let day = Duration::from_secs(24 * 60 * 60);
            (
                "checkpoint_interval",
                interval,
                Duration::from_secs(10)..=day,
            )
        });
        for (name, actual, range) in durations.into_iter().chain(checkpoint) {
            if !range.contains(&actual) {
                return Err(ConfigError::OutOfRange {
                    name,
                    actual,
                    range,
                });
            }
        }
        let long = |name: &String| name.len() > MAX_CAPABILITY_LEN;
        if self.capabilities.len() > MAX_NAMES || self.capabilities.iter().any(long) {
            return Err(ConfigError::Capabilities);
        }
        match &self.genesis {
            GenesisSource::Create(params) | GenesisSource::FirstCome(params) => {
                if params.schema != self.schema.hash() {
                    return Err(OpenError::SchemaMismatch.into());
                }
                Genesis::create(params.clone(), &self.signing_key)?;
            }
            GenesisSource::Known(_) | GenesisSource::Remembered(_) | GenesisSource::Invited(_) => {}
        }
        Ok(())
    }
}
