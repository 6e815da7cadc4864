//! The protocol's bounds. What exceeds one is refused, never cut short.

use std::time::Duration;

/// The protocol's version, as sent in `peer.announce`.
pub const PROTOCOL_VERSION: u32 = 1;

/// The path of the WebSocket endpoint.
pub const WEBSOCKET_PATH: &str = "/v1/ws";

/// Largest message in bytes, either way.
pub const MAX_MESSAGE_LEN: usize = 64 * 1024;

/// Largest `params` of a client's message in bytes: what is left of the message is room for what the
/// server adds when it relays them, so that the target's message keeps within its bound too.
pub const MAX_PARAMS_LEN: usize = MAX_MESSAGE_LEN - 1024;

/// Largest session description (RFC 8866) in bytes.
pub const MAX_SDP_LEN: usize = 32 * 1024;

/// Largest `candidate` attribute in bytes; `sdp_mid` and `username_fragment` share the bound.
pub const MAX_CANDIDATE_LEN: usize = 1024;

/// Largest `user_data` in bytes of compact JSON.
pub const MAX_USER_DATA_LEN: usize = 1024;

/// Most arrays and objects within each other in `user_data`; a plain value has none. What carries it
/// adds a few, and serde_json reads 127 at most.
pub const MAX_USER_DATA_DEPTH: usize = 16;

/// Most addresses in an offer or answer of kind `quic`.
pub const MAX_ADDRESSES: usize = 16;

/// Longest `reason` of a `peer.disconnect` in bytes.
pub const MAX_REASON_LEN: usize = 200;

/// Longest JSON-RPC `id` that is a string, in bytes.
pub const MAX_ID_LEN: usize = 64;

/// Most entries in `capabilities`, known or not.
pub const MAX_CAPABILITIES: usize = 16;

/// Most peers that a room can be configured for: the result of `peer.announce`, which names them
/// all, must fit a message.
pub const MAX_PEERS: usize = 50;

/// Peers in a room unless the server is configured otherwise.
pub const DEFAULT_MAX_PEERS: usize = 10;

/// How long an offer waits for its answer.
pub const OFFER_TTL: Duration = Duration::from_secs(30);

/// How long a lost connection keeps its place in the room.
pub const RESUME_TTL: Duration = Duration::from_secs(30);

/// How long a fresh connection may take to send `peer.announce`.
pub const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server takes at most to answer `peer.announce`. Who gives up earlier may have been let in.
pub const ANNOUNCE_ANSWER: Duration = Duration::from_secs(7);

/// How often the server sends a WebSocket ping.
pub const PING_INTERVAL: Duration = Duration::from_secs(15);

/// How long either side stays silent before the other takes it for lost.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);

/// Longest life of a grant, counted from now: one that claims more is refused.
pub const MAX_GRANT_LIFE: Duration = Duration::from_secs(600);

/// How far the clocks of servers that honour each other's grants may differ.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);

/// Longest grant in bytes.
pub const MAX_GRANT_LEN: usize = 2048;

/// How long before a grant ends its holder is told (`session.expiring`).
pub const EXPIRY_NOTICE: Duration = Duration::from_secs(60);

/// How long a room's session lasts unless it is renewed.
pub const ROOM_LIFE: Duration = Duration::from_secs(3600);
