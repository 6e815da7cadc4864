//! Why a negotiation failed.

use std::{io, time::Duration};

use crate::ConfigError;

/// The longest session description that is looked at, in bytes.
pub const MAX_SDP_LEN: usize = 32 * 1024;
/// The longest candidate that is looked at, in bytes.
pub const MAX_CANDIDATE_LEN: usize = 1024;
/// How many candidates a peer may name, in its description and trickled together.
pub const MAX_CANDIDATES: usize = 64;

/// Why a link did not come up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The configuration is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No socket could be bound on any of the addresses.
    #[error("no UDP socket could be bound ({0}): check the configured addresses")]
    Socket(io::ErrorKind),
    /// The WebRTC core refused the set-up.
    #[error("the WebRTC core refused the set-up")]
    Setup,
    /// The peer's session description is larger than [`MAX_SDP_LEN`].
    #[error("the session description has {0} bytes, more than {MAX_SDP_LEN}")]
    SdpTooLarge(usize),
    /// The peer's session description is malformed or does not answer ours.
    #[error("the session description is malformed or does not fit the negotiation")]
    Sdp,
    /// The description must name exactly one certificate, else whoever relays it could slip in a
    /// second.
    #[error("the session description has {0} distinct certificate fingerprints instead of one")]
    Fingerprints(usize),
    /// The fingerprint is not a well-formed SHA-256 one (RFC 8122 §5).
    #[error("the certificate fingerprint is not a SHA-256 one")]
    FingerprintFormat,
    /// An ICE candidate is longer than [`MAX_CANDIDATE_LEN`].
    #[error("the candidate has {0} bytes, more than {MAX_CANDIDATE_LEN}")]
    CandidateTooLarge(usize),
    /// The peer named more than [`MAX_CANDIDATES`] candidates.
    #[error("the peer named more than {MAX_CANDIDATES} candidates")]
    TooManyCandidates,
    /// An ICE candidate is malformed (RFC 8839 §5.1).
    #[error("the candidate is malformed")]
    Candidate,
    /// The negotiation already has both descriptions.
    #[error("the negotiation already has both descriptions")]
    AlreadyAnswered,
    /// The DTLS handshake failed; the peer's certificate may not match its description.
    #[error("the DTLS handshake failed: the certificate may not match the session description")]
    Handshake,
    /// The link was not open in time.
    #[error("the link was not open after {0:?}: the peers may not reach each other")]
    Timeout(Duration),
    /// The negotiation was abandoned here or by the peer.
    #[error("the negotiation was abandoned")]
    Abandoned,
}
