//! Access grants: JSON Web Tokens (RFC 7519) signed with Ed25519 (RFC 8037), which say who may be
//! in which room, and until when.
//!
//! A token's header chooses nothing but which of the server's keys to try: the algorithm, the
//! issuer and the audience are the verifier's, and a member that the verifier does not know
//! (`crit`, `jwk`, `x5c`) makes the token worthless. `docs/adr/0007` says why this is
//! not a JWT library.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use roundtable_core::{PeerId, RoomId, WallTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Capabilities, Capability, ErrorCode, RpcError, limits, text};

/// The only algorithm (RFC 8037 §3.1).
const ALGORITHM: &str = "EdDSA";

/// What the holder of a grant may do in the room. The server carries it; what a role means is the
/// room's own affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees and hears.
    Viewer,
    /// Changes the shared state.
    Editor,
    /// Changes what others may do.
    Admin,
}

/// Its name in a token.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Admin => "admin",
        })
    }
}

/// What may be sent over a peer's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// Data channels.
    Data,
    /// Voice.
    Audio,
    /// Video.
    Video,
}

impl Media {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Data, Self::Audio, Self::Video];

    const fn capability(self) -> Capability {
        match self {
            Self::Data => Capability::Data,
            Self::Audio => Capability::Audio,
            Self::Video => Capability::Video,
        }
    }
}

/// A set of [`Media`]; in a token an array of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaSet([bool; 3]);

impl MediaSet {
    /// Everything.
    pub const ALL: Self = Self([true; 3]);

    /// Whether the set has `media`.
    pub const fn contains(self, media: Media) -> bool {
        self.0[media as usize]
    }
}

impl FromIterator<Media> for MediaSet {
    fn from_iter<I: IntoIterator<Item = Media>>(media: I) -> Self {
        let mut set = Self([false; 3]);
        media.into_iter().for_each(|m| set.0[m as usize] = true);
        set
    }
}

impl Serialize for MediaSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let within = Media::ALL.into_iter().filter(|m| self.contains(*m));
        serializer.collect_seq(within)
    }
}

impl<'de> Deserialize<'de> for MediaSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let media = Vec::<Media>::deserialize(deserializer)?;
        Ok(media.into_iter().collect())
    }
}

/// The right to be in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Who (`sub`).
    pub peer_id: PeerId,
    /// Where.
    pub room: RoomId,
    /// As what.
    pub role: Role,
    /// What the peer may announce of data, audio and video.
    pub can: MediaSet,
    /// Until when, in whole seconds (`exp`).
    pub expires: WallTime,
}

impl Grant {
    /// Whether this grant lets `peer_id` into `room` with these capabilities.
    ///
    /// # Errors
    /// [`GrantError::WrongRoom`], [`WrongPeer`](GrantError::WrongPeer) or
    /// [`NotAllowed`](GrantError::NotAllowed).
    pub fn covers(
        &self,
        room: &RoomId,
        peer_id: &PeerId,
        capabilities: Capabilities,
    ) -> Result<(), GrantError> {
        if self.room != *room {
            return Err(GrantError::WrongRoom);
        }
        if self.peer_id != *peer_id {
            return Err(GrantError::WrongPeer);
        }
        let forbidden = Media::ALL.into_iter().filter(|m| !self.can.contains(*m));
        let mut forbidden = forbidden.map(Media::capability);
        match forbidden.find(|capability| capabilities.contains(*capability)) {
            Some(capability) => Err(GrantError::NotAllowed(capability)),
            None => Ok(()),
        }
    }
}

/// Why a token is no grant, or not the one that is needed. Clients are told `Unauthorized`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// Not three parts of Base64 with the JSON of a grant in them, or too long.
    #[error("not a grant")]
    Malformed,
    /// Signed in another way, or not at all.
    #[error("a grant is signed with EdDSA")]
    Algorithm,
    /// The key is not, or no longer, one of the server's.
    #[error("the grant's key is unknown")]
    UnknownKey,
    /// Not signed by that key.
    #[error("the grant's signature is wrong")]
    Signature,
    /// Made by another issuer.
    #[error("the grant is of another issuer")]
    Issuer,
    /// Made for another server.
    #[error("the grant is for another server")]
    Audience,
    /// It was good once.
    #[error("the grant has expired")]
    Expired,
    /// It would be good for longer than any grant may be.
    #[error("the grant lives too long")]
    TooLong,
    /// For another room.
    #[error("the grant is for another room")]
    WrongRoom,
    /// For another peer.
    #[error("the grant is for another peer_id")]
    WrongPeer,
    /// It does not allow something that the peer announces.
    #[error("the grant does not allow {}", .0.name())]
    NotAllowed(Capability),
}

impl From<GrantError> for RpcError {
    fn from(error: GrantError) -> Self {
        Self::new(ErrorCode::Unauthorized, error.to_string())
    }
}

/// Names one of a server's keys (`kid`, RFC 7515 §4.1.4): 16 hexadecimal digits of the public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantKeyId(Box<str>);

impl fmt::Display for GrantKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key that signs grants and nothing else. `Debug` does not show it.
#[derive(Clone)]
pub struct GrantKey {
    id: GrantKeyId,
    key: SigningKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<Box<str>>,
    kid: GrantKeyId,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    iss: Box<str>,
    aud: Box<str>,
    #[serde(with = "text")]
    sub: PeerId,
    /// Seconds since the Unix epoch.
    exp: u64,
    #[serde(with = "text")]
    room: RoomId,
    role: Role,
    can: MediaSet,
}

impl GrantKey {
    /// The key that these 32 secret bytes are.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        Self {
            id: key_id(&key.verifying_key()),
            key,
        }
    }

    /// The key's name.
    pub fn id(&self) -> &GrantKeyId {
        &self.id
    }

    /// What others verify with.
    pub fn public(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// A token that carries `grant`, made by `issuer` for the servers that call themselves `audience`.
    pub fn sign(&self, issuer: &str, audience: &str, grant: &Grant) -> String {
        let header = Header {
            alg: ALGORITHM.into(),
            typ: Some("JWT".into()),
            kid: self.id.clone(),
        };
        let claims = Claims {
            iss: issuer.into(),
            aud: audience.into(),
            sub: grant.peer_id.clone(),
            exp: grant.expires.as_millis() / 1000,
            room: grant.room.clone(),
            role: grant.role,
            can: grant.can,
        };
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.sign(signed.as_bytes()).to_bytes();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

impl fmt::Debug for GrantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrantKey({})", self.id)
    }
}

fn key_id(key: &VerifyingKey) -> GrantKeyId {
    let start = &key.as_bytes()[..8];
    GrantKeyId(start.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn encode(part: &impl Serialize) -> String {
    // Fails for maps with keys that are not strings; none of ours has such keys.
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(part).unwrap_or_default())
}

fn decode<T: for<'a> Deserialize<'a>>(part: &str) -> Result<T, GrantError> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(part);
    let json = json.map_err(|_| GrantError::Malformed)?;
    // Serde would read an array as a struct.
    if json.first() != Some(&b'{') {
        return Err(GrantError::Malformed);
    }
    serde_json::from_slice(&json).map_err(|_| GrantError::Malformed)
}

/// Knows whose grants count, and for whom they must be made.
#[derive(Debug, Clone)]
pub struct GrantVerifier {
    issuer: Box<str>,
    audience: Box<str>,
    keys: Vec<(GrantKeyId, VerifyingKey)>,
}

impl GrantVerifier {
    /// Takes grants that `issuer` made for `audience` with one of `keys` (Ed25519 public keys).
    /// Keys that are none, or weak, are left out.
    pub fn new(issuer: &str, audience: &str, keys: impl IntoIterator<Item = [u8; 32]>) -> Self {
        let keys = keys.into_iter();
        let keys = keys.filter_map(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        let strong = keys.filter(|key| !key.is_weak());
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            keys: strong.map(|key| (key_id(&key), key)).collect(),
        }
    }

    /// What the token grants, and with which key it is signed.
    ///
    /// # Errors
    /// [`GrantError`], of the first rule that is broken; whom and where it is for is checked by
    /// [`Grant::covers`].
    pub fn verify(&self, now: WallTime, token: &str) -> Result<(Grant, GrantKeyId), GrantError> {
        if token.len() > limits::MAX_GRANT_LEN {
            return Err(GrantError::Malformed);
        }
        let malformed = GrantError::Malformed;
        let (signed, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(malformed)?;
        let header: Header = decode(header)?;
        if *header.alg != *ALGORITHM {
            return Err(GrantError::Algorithm);
        }
        if header
            .typ
            .is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT"))
        {
            return Err(malformed);
        }
        let (id, key) = self.key(&header.kid).ok_or(GrantError::UnknownKey)?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature);
        let signature = Signature::from_slice(&signature.map_err(|_| malformed)?);
        let signature = signature.map_err(|_| GrantError::Signature)?;
        key.verify_strict(signed.as_bytes(), &signature)
            .map_err(|_| GrantError::Signature)?;
        Ok((self.check(now, decode(claims)?)?, id.clone()))
    }

    /// Whether grants signed with this key still count.
    pub fn knows(&self, id: &GrantKeyId) -> bool {
        self.key(id).is_some()
    }

    fn key(&self, id: &GrantKeyId) -> Option<&(GrantKeyId, VerifyingKey)> {
        self.keys.iter().find(|(known, _)| known == id)
    }

    fn check(&self, now: WallTime, claims: Claims) -> Result<Grant, GrantError> {
        if claims.iss != self.issuer {
            return Err(GrantError::Issuer);
        }
        if claims.aud != self.audience {
            return Err(GrantError::Audience);
        }
        let expires_ms = claims.exp.checked_mul(1000).ok_or(GrantError::TooLong)?;
        if expires_ms <= now.as_millis() {
            return Err(GrantError::Expired);
        }
        let longest = limits::MAX_GRANT_LIFE + limits::CLOCK_TOLERANCE;
        if u128::from(expires_ms - now.as_millis()) > longest.as_millis() {
            return Err(GrantError::TooLong);
        }
        Ok(Grant {
            peer_id: claims.sub,
            room: claims.room,
            role: claims.role,
            can: claims.can,
            expires: WallTime::from_millis(expires_ms),
        })
    }
}
