//! Asks a STUN server for an address (RFC 8489) and a TURN server for an allocation (RFC 8656), as a client would.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rtc_crypto::RTCCrypto;
use rtc_stun::{
    attributes::{
        ATTR_LIFETIME, ATTR_NONCE, ATTR_REALM, ATTR_REQUESTED_ADDRESS_FAMILY,
        ATTR_REQUESTED_TRANSPORT, ATTR_USERNAME, ATTR_XOR_PEER_ADDRESS, AttrType,
    },
    error_code::ErrorCodeAttribute,
    fingerprint::FINGERPRINT,
    integrity::MessageIntegrity,
    message::{
        BINDING_REQUEST, CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, Getter, METHOD_ALLOCATE,
        METHOD_CREATE_PERMISSION, METHOD_REFRESH, Message, MessageType, Method, Setter,
        TransactionId,
    },
    xoraddr::XorMappedAddress,
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::ice_uri::{Carrier, IceUri, Service};

/// How long a whole probe may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the first datagram waits for its answer before it is sent again; then twice as long, and so on.
const FIRST_RETRANSMISSION: Duration = Duration::from_millis(250);

/// The longest answer that is read.
const MAX_ANSWER_LEN: usize = 2048;

/// The protocol number of UDP: what a TURN server relays (RFC 8656, section 18.7).
const UDP: u8 = 17;

/// Families of relayed addresses (RFC 8656, section 18.6).
const IPV4: u8 = 1;
const IPV6: u8 = 2;

/// Error codes of STUN and TURN.
const UNAUTHORIZED: u16 = 401;
const STALE_NONCE: u16 = 438;

/// Why a STUN or TURN server cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("its name is not found: {0}")]
    Resolve(io::Error),
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("what it answers is no STUN message, or is not signed as it should be")]
    Garbled,
    #[error("it refuses the credentials: give both the same secret, and look at the clocks")]
    Unauthorized,
    #[error("it refuses with error {0}")]
    Refused(u16),
    #[error("it relays for anyone, without credentials: turn on use-auth-secret")]
    NoCredentialsAsked,
}

/// What a TURN server lets through that it should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exposure {
    #[error(
        "it relays to its own loopback addresses: add denied-peer-ip=127.0.0.0-127.255.255.255"
    )]
    Loopback,
    #[error(
        "it lets ::ffff:127.0.0.1 past denied-peer-ip (CVE-2026-27624): run coturn 4.9 or later, or add denied-peer-ip=::ffff:0.0.0.0-::ffff:255.255.255.255"
    )]
    MappedLoopback,
}

/// User name and password for a TURN server.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// Asks a server for what clients come for. Whether a TURN server relays where it should not is told, too.
pub(crate) async fn probe(
    uri: &IceUri,
    carrier: Carrier,
    login: Option<&Login>,
    tls: &TlsConnector,
) -> Result<Option<Exposure>, ProbeError> {
    let probing = async {
        let mut exchange = Exchange::open(uri, carrier, tls).await?;
        if uri.service == Service::Stun {
            let answer = exchange.ask(&request(BINDING_REQUEST, &[], None)?).await?;
            return outcome(&answer).map(|()| None);
        }
        let loopback = (Ipv4Addr::LOCALHOST.into(), Exposure::Loopback);
        allocate(&mut exchange, login, IPV4, loopback).await
    };
    let found = timeout(PATIENCE, probing)
        .await
        .unwrap_or(Err(ProbeError::Silent))?;
    if found.is_some() || uri.service == Service::Stun {
        return Ok(found);
    }
    // Only an IPv6 relay takes a peer in this form. A server without one is none the worse for it.
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    let mapped = async {
        let mut exchange = Exchange::open(uri, carrier, tls).await?;
        let mapped = (mapped.into(), Exposure::MappedLoopback);
        allocate(&mut exchange, login, IPV6, mapped).await
    };
    let found = timeout(PATIENCE, mapped).await;
    Ok(found.ok().and_then(Result::ok).flatten())
}

/// Takes an allocation, tries to reach a peer that it must not reach, and gives it back.
async fn allocate(
    exchange: &mut Exchange,
    login: Option<&Login>,
    family: u8,
    (forbidden, exposure): (IpAddr, Exposure),
) -> Result<Option<Exposure>, ProbeError> {
    let crypto = rtc_crypto::default_provider().map_err(|_| ProbeError::Garbled)?;
    let crypto = crypto.crypto();
    let wanted: &[(AttrType, &[u8])] = &[
        (ATTR_REQUESTED_TRANSPORT, &[UDP, 0, 0, 0]),
        (ATTR_REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]),
    ];
    let allocate = MessageType::new(METHOD_ALLOCATE, CLASS_REQUEST);
    let challenge = exchange.ask(&request(allocate, wanted, None)?).await?;
    match outcome(&challenge) {
        Err(ProbeError::Unauthorized) => {}
        Err(other) => return Err(other),
        Ok(()) => return Err(ProbeError::NoCredentialsAsked),
    }
    let login = login.ok_or(ProbeError::Unauthorized)?;
    let mut signer = Signer::new(login, &challenge, crypto)?;
    let mut answer = exchange
        .ask(&request(allocate, wanted, Some(&signer))?)
        .await?;
    if matches!(outcome(&answer), Err(ProbeError::Refused(STALE_NONCE))) {
        signer = Signer::new(login, &answer, crypto)?;
        let again = request(allocate, wanted, Some(&signer))?;
        answer = exchange.ask(&again).await?;
    }
    outcome(&answer)?;
    signer.check(&mut answer)?;
    let reached = exchange.ask(&permission(forbidden, &signer)?).await?;
    let exposure = outcome(&reached).is_ok().then_some(exposure);
    let refresh = MessageType::new(METHOD_REFRESH, CLASS_REQUEST);
    let give_back = request(refresh, &[(ATTR_LIFETIME, &[0; 4])], Some(&signer))?;
    // Else it ends by itself, ten minutes later.
    let _ = exchange.ask(&give_back).await;
    Ok(exposure)
}

/// What proves who asks: the long-term credential mechanism (RFC 8489, section 9.2).
struct Signer<'a> {
    username: &'a str,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    key: Vec<u8>,
    crypto: &'a dyn RTCCrypto,
}

impl<'a> Signer<'a> {
    fn new(
        login: &'a Login,
        challenge: &Message,
        crypto: &'a dyn RTCCrypto,
    ) -> Result<Self, ProbeError> {
        let get = |attribute| challenge.get(attribute).map_err(|_| ProbeError::Garbled);
        let (realm, nonce) = (get(ATTR_REALM)?, get(ATTR_NONCE)?);
        let text = String::from_utf8(realm.clone()).map_err(|_| ProbeError::Garbled)?;
        let (username, password) = (login.username.clone(), login.password.clone());
        let key = MessageIntegrity::long_term_integrity_key(username, text, password, crypto);
        Ok(Self {
            username: &login.username,
            realm,
            nonce,
            key: key.map_err(|_| ProbeError::Garbled)?,
            crypto,
        })
    }

    fn sign(&self, message: &mut Message) -> Result<(), ProbeError> {
        message.add(ATTR_USERNAME, self.username.as_bytes());
        message.add(ATTR_REALM, &self.realm);
        message.add(ATTR_NONCE, &self.nonce);
        let key = self.key.clone();
        let integrity = MessageIntegrity::new_raw_integrity_with_provider(key, self.crypto);
        integrity.add_to(message).map_err(|_| ProbeError::Garbled)
    }

    /// Only who knows the secret can have answered this.
    fn check(&self, answer: &mut Message) -> Result<(), ProbeError> {
        let checked = MessageIntegrity::check(answer, &self.key, self.crypto);
        checked.map_err(|_| ProbeError::Garbled)
    }
}

fn request(
    of: MessageType,
    attributes: &[(AttrType, &[u8])],
    signer: Option<&Signer<'_>>,
) -> Result<Message, ProbeError> {
    let mut message = begun(of)?;
    for (attribute, value) in attributes {
        message.add(*attribute, value);
    }
    finished(message, signer)
}

/// Asks leave to reach a peer.
fn permission(ip: IpAddr, signer: &Signer<'_>) -> Result<Message, ProbeError> {
    let mut message = begun(MessageType::new(METHOD_CREATE_PERMISSION, CLASS_REQUEST))?;
    let peer = XorMappedAddress { ip, port: 9 };
    let added = peer.add_to_as(&mut message, ATTR_XOR_PEER_ADDRESS);
    added.map_err(|_| ProbeError::Garbled)?;
    finished(message, Some(signer))
}

fn begun(of: MessageType) -> Result<Message, ProbeError> {
    let mut message = Message::new();
    let built = message.build(&[Box::new(TransactionId::new()), Box::new(of)]);
    built.map_err(|_| ProbeError::Garbled)?;
    Ok(message)
}

fn finished(mut message: Message, signer: Option<&Signer<'_>>) -> Result<Message, ProbeError> {
    if let Some(signer) = signer {
        signer.sign(&mut message)?;
    }
    let ended = FINGERPRINT.add_to(&mut message);
    ended.map_err(|_| ProbeError::Garbled)?;
    Ok(message)
}

/// Whether an answer says yes.
fn outcome(answer: &Message) -> Result<(), ProbeError> {
    if answer.typ.class == CLASS_SUCCESS_RESPONSE {
        return Ok(());
    }
    let mut error = ErrorCodeAttribute::default();
    error.get_from(answer).map_err(|_| ProbeError::Garbled)?;
    match error.code.0 {
        UNAUTHORIZED => Err(ProbeError::Unauthorized),
        code => Err(ProbeError::Refused(code)),
    }
}

/// A message, if these bytes are the answer to this question.
fn answer_to(question: &Message, bytes: &[u8]) -> Option<Message> {
    let mut answer = Message::new();
    answer.raw = bytes.to_vec();
    answer.decode().ok()?;
    let method = |message: &Message| -> Method { message.typ.method };
    let fits = answer.transaction_id == question.transaction_id
        && method(&answer) == method(question)
        && answer.typ.class != CLASS_REQUEST;
    fits.then_some(answer)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A way to ask one server.
enum Exchange {
    Datagrams(UdpSocket),
    Stream(Box<dyn Stream>),
}

impl Exchange {
    async fn open(uri: &IceUri, carrier: Carrier, tls: &TlsConnector) -> Result<Self, ProbeError> {
        let found = lookup_host((uri.host.as_str(), uri.port)).await;
        let address = found.map_err(ProbeError::Resolve)?.next();
        let missing = || ProbeError::Resolve(io::ErrorKind::NotFound.into());
        let address = address.ok_or_else(missing)?;
        if carrier == Carrier::Udp {
            let any: IpAddr = match address {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(address).await.map_err(ProbeError::Connect)?;
            return Ok(Self::Datagrams(socket));
        }
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(ProbeError::Connect)?;
        if carrier == Carrier::Tcp {
            return Ok(Self::Stream(Box::new(stream)));
        }
        let name = ServerName::try_from(uri.host.clone());
        let name = name.map_err(|error| ProbeError::Connect(io::Error::other(error)))?;
        let stream = tls
            .connect(name, stream)
            .await
            .map_err(ProbeError::Connect)?;
        Ok(Self::Stream(Box::new(stream)))
    }

    /// Asks until there is an answer; how long that may take is the caller's affair.
    async fn ask(&mut self, question: &Message) -> Result<Message, ProbeError> {
        match self {
            Self::Datagrams(socket) => ask_by_datagram(socket, question).await,
            Self::Stream(stream) => {
                stream.write_all(&question.raw).await?;
                let mut bytes = vec![0; 20];
                stream.read_exact(&mut bytes).await?;
                // The header's length is of what follows it (RFC 8489, section 5).
                let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
                if length > MAX_ANSWER_LEN {
                    return Err(ProbeError::Garbled);
                }
                bytes.resize(20 + length, 0);
                stream.read_exact(&mut bytes[20..]).await?;
                answer_to(question, &bytes).ok_or(ProbeError::Garbled)
            }
        }
    }
}

async fn ask_by_datagram(socket: &UdpSocket, question: &Message) -> Result<Message, ProbeError> {
    let mut pause = FIRST_RETRANSMISSION;
    let mut bytes = [0; MAX_ANSWER_LEN];
    loop {
        socket
            .send(&question.raw)
            .await
            .map_err(ProbeError::Connect)?;
        let answered = async {
            loop {
                let length = socket.recv(&mut bytes).await.map_err(ProbeError::Connect)?;
                // Anyone can send a datagram: what is no answer is not looked at.
                if let Some(answer) = answer_to(question, &bytes[..length]) {
                    return Ok(answer);
                }
            }
        };
        if let Ok(answer) = timeout(pause, answered).await {
            return answer;
        }
        pause *= 2;
    }
}

/// Trusts whom the system trusts.
pub(crate) fn connector() -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (good, bad) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(good, bad, "root certificates for turns: servers");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has every cipher suite of the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config).into()
}
