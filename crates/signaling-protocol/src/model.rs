//! What the messages are made of.

use std::{
    fmt,
    net::{AddrParseError, SocketAddr},
    str::FromStr,
};

use roundtable_core::{AuthorId, IdError, PeerId, RoomId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Value, json};

use crate::{json_rpc, limits, text};

/// The `id` of a JSON-RPC request: a whole number or a string of at most
/// [`MAX_ID_LEN`](limits::MAX_ID_LEN) bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum MessageId {
    /// A number.
    Number(i64),
    /// A string.
    Text(Box<str>),
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(i64),
            Text(Box<str>),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Number(number) => Ok(Self::Number(number)),
            Raw::Text(text) if text.len() <= limits::MAX_ID_LEN => Ok(Self::Text(text)),
            Raw::Text(_) => Err(D::Error::custom("id too long")),
        }
    }
}

/// Names one offer, its answer and the candidates of both sides. Made by the offerer, random.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(#[serde(with = "text")] RequestName);

/// Request ids share the grammar of peer ids.
type RequestName = PeerId;

impl RequestId {
    /// Checks `text` against `^[A-Za-z0-9_-]{1,64}$`.
    ///
    /// # Errors
    /// [`IdError`] says which rule is broken.
    pub fn new(text: &str) -> Result<Self, IdError> {
        RequestName::new(text).map(Self)
    }

    /// An id of 32 hexadecimal digits.
    #[allow(clippy::missing_panics_doc)] // hexadecimal digits always follow the grammar
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(RequestName::new(&Hex(bytes).to_string()).expect("hexadecimal digits are a name"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for RequestId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

struct Hex([u8; 16]);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The secret with which a client takes its place again after its socket was lost: 128 bits, used
/// once. `Debug` does not show it.
#[derive(Clone, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResumeToken(Box<str>);

impl ResumeToken {
    /// A token from 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(Hex(bytes).to_string().into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl PartialEq for ResumeToken {
    /// Takes the same time wherever the tokens differ.
    fn eq(&self, other: &Self) -> bool {
        let difference = self.0.bytes().zip(other.0.bytes());
        let difference = difference.fold(0, |all, (a, b)| all | (a ^ b));
        self.0.len() == other.0.len() && difference == 0
    }
}

impl fmt::Debug for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeToken(..)")
    }
}

/// What a peer can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Capability {
    /// Data channels.
    Data = 0,
    /// Voice.
    Audio = 1,
    /// Video.
    Video = 2,
    /// Promises the session handshake; a peer without it is a guest.
    Session = 3,
    /// Takes offers of kind `quic`.
    Quic = 4,
    /// Takes WebTransport.
    WebTransport = 5,
}

impl Capability {
    /// All capabilities.
    pub const ALL: [Self; 6] = [
        Self::Data,
        Self::Audio,
        Self::Video,
        Self::Session,
        Self::Quic,
        Self::WebTransport,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Session => "session",
            Self::Quic => "quic",
            Self::WebTransport => "webtransport",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of capabilities: on the wire an array of names, of which unknown ones are skipped.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Capabilities(u8);

impl Capabilities {
    /// Whether the set has `capability`.
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }

    /// The set with `capability` added.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | capability.bit())
    }

    /// Whether the set has nothing in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The capabilities in the set, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        let all = Capability::ALL.into_iter();
        all.filter(move |capability| self.contains(*capability))
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        capabilities.into_iter().fold(Self::default(), Self::with)
    }
}

impl<const N: usize> From<[Capability; N]> for Capabilities {
    fn from(capabilities: [Capability; N]) -> Self {
        capabilities.into_iter().collect()
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Capabilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Capability::name))
    }
}

impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<Box<str>>::deserialize(deserializer)?;
        if names.len() > limits::MAX_CAPABILITIES {
            return Err(D::Error::custom("too many capabilities"));
        }
        let known = Capability::ALL.into_iter();
        let known = known.filter(|known| names.iter().any(|name| **name == *known.name()));
        Ok(known.collect())
    }
}

/// A peer as the others in its room see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its name in the room.
    #[serde(with = "text")]
    pub peer_id: PeerId,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Whatever it chose to say about itself; `null` if nothing. Not checked by anyone.
    #[serde(default)]
    pub user_data: Value,
}

/// A STUN or TURN server, in the form that `RTCPeerConnection` takes. `Debug` does not show the credential.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// `stun:`, `turn:` and `turns:` URLs (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// The result of `peer.announce`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// The name that was asked for.
    #[serde(with = "text")]
    pub peer_id: PeerId,
    /// The room that was asked for.
    #[serde(with = "text")]
    pub room: RoomId,
    /// Whether the place was taken again by `resume`: the others noticed nothing.
    #[serde(default)]
    pub resumed: bool,
    /// The server's clock, in milliseconds since the Unix epoch.
    pub server_time_ms: u64,
    /// For the next `peer.announce`, should the socket be lost.
    pub resume: ResumeToken,
    /// How long a lost socket keeps its place, in milliseconds.
    pub resume_ttl_ms: u64,
    /// STUN and TURN servers to use.
    #[serde(default)]
    pub ice_servers: Vec<IceServer>,
    /// How long the credentials among them serve, in milliseconds from now; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ice_ttl_ms: Option<u64>,
    /// When the grant ends, in milliseconds since the Unix epoch; absent in an open server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_expires_ms: Option<u64>,
    /// Everyone else in the room.
    pub peers: Vec<PeerInfo>,
    /// How many peers the room takes, this one included.
    pub max_peers: usize,
    /// Other servers of the cluster, as URLs; sixteen at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
}

/// Why a peer is no longer in the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LeaveReason {
    /// On purpose.
    Left,
    /// Its socket was lost and not resumed in time.
    Lost,
    /// The server threw it out: it did not read.
    Evicted,
    /// Its grant expired.
    Expired,
    /// A reason that this version does not know.
    #[serde(other)]
    Unknown,
}

/// A trickled ICE candidate (RFC 8838), with the fields of `RTCIceCandidateInit`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IceCandidate {
    /// The `candidate` attribute (RFC 8839 §5.1) without `a=`; empty for end of candidates.
    pub candidate: String,
    /// The `mid` of the media section.
    #[serde(default)]
    pub sdp_mid: Option<String>,
    /// The index of the media section.
    #[serde(default)]
    pub sdp_m_line_index: Option<u16>,
    /// The ICE `ufrag` that the candidate belongs to.
    #[serde(default)]
    pub username_fragment: Option<String>,
}

impl IceCandidate {
    /// Whether this says that no more candidates follow.
    pub fn is_end(&self) -> bool {
        self.candidate.is_empty()
    }

    /// The candidate as a JSON object.
    pub(crate) fn to_json(&self) -> String {
        json_rpc::text(self)
    }

    /// The longest of the text fields, in bytes.
    pub(crate) fn longest_field(&self) -> usize {
        let optional = [&self.sdp_mid, &self.username_fragment];
        let optional = optional.into_iter().flatten().map(String::len).max();
        self.candidate.len().max(optional.unwrap_or(0))
    }
}

/// What kind of link is negotiated. Both kinds may be negotiated at once between a pair.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// WebRTC, described by SDP.
    #[default]
    WebRtc,
    /// QUIC, described by a key and addresses; the offerer dials.
    Quic,
}

/// How a peer can be reached: the body of an offer or of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Description {
    /// A session description (RFC 8866), 1 byte to 32 KiB. The server does not look into it.
    WebRtc {
        /// The SDP.
        sdp: String,
    },
    /// A QUIC endpoint.
    Quic {
        /// The key that the endpoint's TLS proves.
        author_key: AuthorId,
        /// Where it listens, at most 16; none where the peer only dials.
        addresses: Vec<SocketAddr>,
    },
}

/// The body of `peer.offer`.
pub type OfferBody = Description;

/// The body of `peer.answer`.
pub type AnswerBody = Description;

impl Description {
    /// The kind of link described.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::WebRtc { .. } => Kind::WebRtc,
            Self::Quic { .. } => Kind::Quic,
        }
    }
}

/// Why a description was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptionError {
    /// A `webrtc` description without `sdp`.
    #[error("sdp is missing or empty")]
    NoSdp,
    /// The SDP is larger than [`MAX_SDP_LEN`](limits::MAX_SDP_LEN).
    #[error("an sdp has at most {} bytes", limits::MAX_SDP_LEN)]
    SdpTooLarge,
    /// A `quic` description without `author_key`, or not 64 hexadecimal digits.
    #[error("author_key must be 64 hexadecimal digits")]
    AuthorKey,
    /// More than [`MAX_ADDRESSES`](limits::MAX_ADDRESSES), or one that is no ip:port.
    #[error("addresses must be at most {} of ip:port", limits::MAX_ADDRESSES)]
    Addresses,
}

/// A description as it stands in `params`.
#[derive(Debug, Deserialize)]
pub(crate) struct RawDescription {
    #[serde(default)]
    pub(crate) kind: Kind,
    #[serde(default)]
    pub(crate) sdp: Option<String>,
    #[serde(default)]
    pub(crate) author_key: Option<String>,
    #[serde(default)]
    pub(crate) addresses: Option<Vec<String>>,
}

impl TryFrom<RawDescription> for Description {
    type Error = DescriptionError;

    fn try_from(raw: RawDescription) -> Result<Self, DescriptionError> {
        match raw.kind {
            Kind::WebRtc => match raw.sdp {
                None => Err(DescriptionError::NoSdp),
                Some(sdp) if sdp.is_empty() => Err(DescriptionError::NoSdp),
                Some(sdp) if sdp.len() > limits::MAX_SDP_LEN => Err(DescriptionError::SdpTooLarge),
                Some(sdp) => Ok(Self::WebRtc { sdp }),
            },
            Kind::Quic => {
                let author_key = raw.author_key.as_deref().unwrap_or_default().parse();
                let author_key = author_key.map_err(|_: IdError| DescriptionError::AuthorKey)?;
                let addresses = raw.addresses.unwrap_or_default();
                if addresses.len() > limits::MAX_ADDRESSES {
                    return Err(DescriptionError::Addresses);
                }
                let addresses = addresses.iter().map(|address| address.parse());
                let addresses: Result<_, AddrParseError> = addresses.collect();
                let addresses = addresses.map_err(|_| DescriptionError::Addresses)?;
                Ok(Self::Quic {
                    author_key,
                    addresses,
                })
            }
        }
    }
}

impl Description {
    /// The description as a JSON object.
    pub(crate) fn to_json(&self) -> String {
        match self {
            Self::WebRtc { sdp } => {
                let mut json = String::with_capacity(sdp.len() + sdp.len() / 16 + 32);
                json.push_str(r#"{"kind":"webrtc","sdp":"#);
                json_rpc::quote(sdp, &mut json);
                json.push('}');
                json
            }
            Self::Quic {
                author_key,
                addresses,
            } => json!({
                "kind": Kind::Quic,
                "author_key": author_key.to_string(),
                "addresses": addresses,
            })
            .to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_capabilities_are_skipped() {
        let set: Capabilities = serde_json::from_str(r#"["data","holograms","quic"]"#).unwrap();
        assert_eq!(
            set,
            Capabilities::from([Capability::Data, Capability::Quic])
        );
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"["data","quic"]"#);
    }

    #[test]
    fn resume_tokens_compare_whole_and_stay_hidden() {
        let token = ResumeToken::from_random([7; 16]);
        assert_eq!(token, ResumeToken::from_random([7; 16]));
        assert_ne!(token, ResumeToken::from_random([8; 16]));
        assert_ne!(token, ResumeToken("07".into()));
        assert_eq!(format!("{token:?}"), "ResumeToken(..)");
    }

    #[test]
    fn a_credential_is_not_shown() {
        let server = IceServer {
            urls: vec!["turn:turn.example.org".into()],
            username: Some("1800000000:alice".into()),
            credential: Some("secret".into()),
        };
        assert!(!format!("{server:?}").contains("secret"));
    }

    #[test]
    fn message_ids_are_numbers_or_short_strings() {
        let parse = serde_json::from_str::<MessageId>;
        assert_eq!(parse("7").unwrap(), MessageId::Number(7));
        assert_eq!(parse("\"x\"").unwrap(), MessageId::Text("x".into()));
        for bad in ["null", "1.5", "[]", &format!("\"{}\"", "x".repeat(65))] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
