//! Why a negotiation failed.

use std::{fmt, io, time::Duration};

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
    /// A later description of an open link shows another certificate than the first.
    #[error("the description is of another connection: its certificate is not this link's")]
    OtherCertificate,
    /// What should be answered as an ICE restart is none.
    #[error("the offer is no ICE restart of this link")]
    NoRestart,
    /// The negotiation already has both descriptions.
    #[error("the negotiation already has both descriptions")]
    AlreadyAnswered,
    /// The DTLS handshake failed; the peer's certificate may not match its description.
    #[error("the DTLS handshake failed: the certificate may not match the session description")]
    Handshake,
    /// The link was not open in time.
    #[error("the link was not open after {0:?}: the peers may not reach each other")]
    Timeout(Duration),
    /// The link was not open in time, and these servers were of no help.
    #[error("the link was not open after {after:?}, and servers failed: {servers}")]
    Unreachable {
        /// See [`WebRtcConfig::with_open_timeout`](crate::WebRtcConfig::with_open_timeout).
        after: Duration,
        /// The STUN and TURN servers that did not serve.
        servers: ServerFailures,
    },
    /// Only relays were to be used ([`IcePolicy::Relay`](crate::IcePolicy::Relay)), and no TURN
    /// server gave one.
    #[error("no TURN server gave a relay: {0}")]
    NoRelay(ServerFailures),
    /// The negotiation was abandoned here or by the peer.
    #[error("the negotiation was abandoned")]
    Abandoned,
}

/// Why a STUN or TURN server was of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Not a `stun:`, `turn:` or `turns:` URL (RFC 7064, RFC 7065).
    #[error("this is no URL of a STUN or TURN server")]
    Url,
    /// STUN over TCP or TLS, or TURN over DTLS; any server where a link runs over another network than the system's
    /// ([`with_network`](crate::WebRtcConfig::with_network)).
    #[error("this transport is not supported: for TURN over TLS say turns: without transport=udp")]
    Unsupported,
    /// A TURN URL without username and credential, or with oversized ones.
    #[error("TURN needs a username and a credential")]
    NoCredentials,
    /// The name has no address.
    #[error("its name has no address: check the URL and the DNS")]
    Name,
    /// None of this machine's offered addresses is of the server's address family.
    #[error("this machine offers no address of its family (IPv4 or IPv6)")]
    Family,
    /// No TCP connection.
    #[error("no TCP connection ({0}): check the port and the firewall")]
    Connect(io::ErrorKind),
    /// The TLS handshake failed.
    #[error("the TLS handshake failed: check the certificate and that the port is the TLS one")]
    Tls,
    /// Nothing came back in time.
    #[error("no answer: check that it runs and that a firewall lets this port through")]
    NoAnswer,
    /// Error 401 after the credentials were shown (RFC 8656 §7.3).
    #[error(
        "it refuses the credentials (401): they may have expired, or its secret is not the signaling server's"
    )]
    Unauthorized,
    /// Error 486 or 508: this user's quota or the server's capacity is used up.
    #[error("it has no relay to spare ({0}): raise its quota or its range of ports")]
    Quota(u16),
    /// Another STUN error code (RFC 8489 §14.8).
    #[error("it answered with the error {0}")]
    Refused(u16),
    /// What it sent is no STUN, or the connection ended.
    #[error("it does not speak TURN on this port, or closed the connection")]
    Protocol,
}

/// A server that was of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFailure {
    /// Its URL, as configured.
    pub url: String,
    /// Why.
    pub error: ServerError,
}

/// The servers that were of no use; at most 16.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFailures(pub Vec<ServerFailure>);

impl fmt::Display for ServerFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none is configured");
        }
        for (index, failure) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", failure.url, failure.error)?;
        }
        Ok(())
    }
}
