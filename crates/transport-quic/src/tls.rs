//! TLS 1.3 with authors' Ed25519 keys as raw public keys on both sides (RFC 7250): no
//! certificates, no names, no authorities.

use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::{SigningKey, VerifyingKey};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use roundtable_core::AuthorId;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key},
    pki_types::{
        CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
    },
    server::{
        AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};

/// The application protocol of both sides; its number is the link protocol's major version.
pub(crate) const ALPN: &[u8] = b"roundtable/1";

/// A PKCS #8 Ed25519 private key up to the 32 bytes of seed (RFC 8410 §7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
];
/// A SubjectPublicKeyInfo of Ed25519 up to the 32 bytes of key (RFC 8410 §4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// An author's key in the forms that TLS wants.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) author: AuthorId,
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
}

impl Identity {
    pub(crate) fn new(key: &SigningKey) -> Result<Self, Error> {
        let pkcs8 = [&PKCS8_PREFIX[..], &key.to_bytes()].concat();
        let signer = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8))?;
        let author = AuthorId::from_bytes(key.verifying_key().to_bytes());
        let spki = CertificateDer::from([&SPKI_PREFIX[..], author.as_bytes()].concat());
        Ok(Self {
            author,
            provider: Arc::new(ring::default_provider()),
            key: Arc::new(CertifiedKey::new(vec![spki], signer)),
        })
    }

    /// Accepts any author; who is welcome is decided once the key is proven.
    pub(crate) fn server(&self) -> Result<QuicServerConfig, Error> {
        QuicServerConfig::try_from(self.tls_server()?).map_err(|_| no_initial_suite())
    }

    fn tls_server(&self) -> Result<rustls::ServerConfig, Error> {
        let verifier = Arc::new(AnyAuthor(self.provider.clone()));
        let resolver = Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.key.clone()));
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![ALPN.to_vec()];
        // No resumption and no early data: what is replayable never gets in.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    /// Accepts the author `expected` alone, before our own key has been shown.
    pub(crate) fn client(&self, expected: AuthorId) -> Result<(QuicClientConfig, Seen), Error> {
        let seen = Seen::default();
        let tls = self.tls_client(expected, seen.clone())?;
        let config = QuicClientConfig::try_from(tls).map_err(|_| no_initial_suite())?;
        Ok((config, seen))
    }

    fn tls_client(&self, expected: AuthorId, seen: Seen) -> Result<rustls::ClientConfig, Error> {
        let verifier = Arc::new(OneAuthor {
            provider: self.provider.clone(),
            expected,
            seen,
        });
        let resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.key.clone()));
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous() // rustls' word for not using its certificate verification
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(resolver);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

/// ring's provider has the suite that QUIC's first packets need; only another one could lack it.
fn no_initial_suite() -> Error {
    Error::General("the crypto provider lacks TLS13_AES_128_GCM_SHA256".into())
}

/// The key that a server showed instead of the expected one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Option<AuthorId>>>);

impl Seen {
    pub(crate) fn wrong_key(&self) -> Option<AuthorId> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, author: AuthorId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(author);
    }
}

/// The author that the peer of `connection` has proven to be.
pub(crate) fn proven_author(connection: &quinn::Connection) -> Option<AuthorId> {
    let identity = connection.peer_identity()?;
    let keys = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    author_of(keys.first()?).ok()
}

/// Reads a raw public key; only Ed25519, and no key of small order, which would verify signatures
/// that nobody made.
fn author_of(spki: &[u8]) -> Result<AuthorId, Error> {
    let key = spki
        .strip_prefix(&SPKI_PREFIX)
        .and_then(|key| key.try_into().ok())
        .ok_or(CertificateError::BadEncoding)?;
    match VerifyingKey::from_bytes(key) {
        Ok(point) if !point.is_weak() => Ok(AuthorId::from_bytes(*key)),
        _ => Err(CertificateError::BadEncoding.into()),
    }
}

fn verify_signature(
    provider: &CryptoProvider,
    message: &[u8],
    spki: &[u8],
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let spki = SubjectPublicKeyInfoDer::from(spki);
    let algorithms = &provider.signature_verification_algorithms;
    verify_tls13_signature_with_raw_key(message, &spki, signed, algorithms)
}

/// The server's side: any well-formed key, proven by its signature.
#[derive(Debug)]
struct AnyAuthor(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyAuthor {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        author_of(key).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::BadSignature.into()) // QUIC has no TLS 1.2
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.0, message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The client's side: one key and no other.
#[derive(Debug)]
struct OneAuthor {
    provider: Arc<CryptoProvider>,
    expected: AuthorId,
    seen: Seen,
}

impl ServerCertVerifier for OneAuthor {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let author = author_of(key)?;
        if author != self.expected {
            self.seen.set(author);
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::BadSignature.into()) // QUIC has no TLS 1.2
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.provider, message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    impl Identity {
        /// The keyholder of `self` showing the public key of `victim`.
        pub(crate) fn pretending_to_be(&self, victim: &Self) -> Self {
            let stolen = CertifiedKey::new(victim.key.cert.clone(), self.key.key.clone());
            Self {
                key: Arc::new(stolen),
                ..self.clone()
            }
        }

        /// A server of a link protocol that does not exist yet.
        pub(crate) fn server_of_the_future(&self) -> QuicServerConfig {
            let mut tls = self.tls_server().unwrap();
            tls.alpn_protocols = vec![b"roundtable/2".to_vec()];
            QuicServerConfig::try_from(tls).unwrap()
        }
    }

    #[test]
    fn our_own_public_key_is_read_back() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let identity = Identity::new(&key).unwrap();
        assert_eq!(author_of(&identity.key.cert[0]).unwrap(), identity.author);
        assert_eq!(
            identity.author.as_bytes(),
            key.verifying_key().as_bytes(),
            "TLS shows the author's key itself"
        );
    }

    #[test]
    fn weak_and_misshapen_keys_are_refused() {
        let identity_point = [&SPKI_PREFIX[..], &[1], &[0; 31]].concat();
        assert!(author_of(&identity_point).is_err());
        assert!(author_of(&SPKI_PREFIX).is_err());
        assert!(author_of(b"").is_err());
    }
}
