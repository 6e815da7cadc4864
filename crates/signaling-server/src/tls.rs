//! TLS: the certificate and its key, read again when they change, so that a renewed certificate needs no restart.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use roundtable_core::WallTime;
use rustls::{
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
use sha2::{Digest as _, Sha256};
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    metrics::{Count, Text},
};

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The operating system refused.
    #[error("cannot read {path}: {source}; give PEM files that the server may read")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{path} is damaged: write the certificates, the server's own first, as PEM")]
    Certificates {
        /// The certificates' file.
        path: PathBuf,
    },
    /// The file is not what it should be.
    #[error("{path} holds no private key: write it as PEM, in PKCS #8, PKCS #1 or SEC 1")]
    Key {
        /// The key's file.
        path: PathBuf,
    },
    /// They cannot be used together.
    #[error(
        "{cert} and {key} do not serve ({source}); give a certificate and the key that it was made for"
    )]
    Pair {
        /// The certificates' file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

/// A certificate for TLS (by rustls, 1.2 and 1.3), as two PEM files. Clones share what was read last.
///
/// A server that runs with it looks at the files every 10 s and reads them again when they have
/// changed. What cannot be used is logged and counted, and the certificate before it stays.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    files: Arc<Files>,
    poll_interval: Duration,
}

#[derive(Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Current>,
    /// What the files held when they were last read, well or badly; `None` if they could not be read. Held while they
    /// are read.
    seen: Mutex<Option<Digest>>,
    reloads: Count,
    failed_reloads: Count,
    /// Whether what lies on the disk now cannot be used.
    failing: AtomicBool,
}

#[derive(Debug, Clone)]
struct Current {
    config: Arc<rustls::ServerConfig>,
    /// When the server's own certificate ends, if that can be read from it.
    expires: Option<WallTime>,
}

/// Of both files. Times of change would not do: two changes may come within a tick of the file system's clock.
type Digest = [u8; 32];

impl TlsConfig {
    /// The certificates of one PEM file, the server's own first, and the private key of another.
    ///
    /// # Errors
    /// [`TlsError`] names the file and the mend.
    pub fn open(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, TlsError> {
        let (cert, key) = (cert.into(), key.into());
        let pem = contents(&cert, &key)?;
        let files = Files {
            current: RwLock::new(Current::new(&cert, &key, &pem)?),
            seen: Mutex::new(Some(digest(&pem))),
            cert,
            key,
            reloads: Count::default(),
            failed_reloads: Count::default(),
            failing: AtomicBool::new(false),
        };
        Ok(Self {
            files: Arc::new(files),
            poll_interval: Duration::from_secs(10),
        })
    }

    /// How often the files are looked at. Default 10 s.
    #[must_use]
    pub fn with_poll_interval(mut self, poll_interval: Duration) -> Self {
        self.poll_interval = poll_interval;
        self
    }

    /// Reads the files again, for new connections. Blocks on the disk.
    ///
    /// # Errors
    /// [`TlsError`]: nothing has changed.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.files.read_again(false).map(|_| ())
    }

    pub(crate) fn is_valid(&self) -> bool {
        !self.poll_interval.is_zero()
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.files.current().config).into()
    }

    /// Reads the files again whenever they change, until the server stops.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        let mut polls = interval_at(clock::deadline(self.poll_interval), self.poll_interval);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = polls.tick() => {}
                () = stop.cancelled() => return,
            }
            let files = Arc::clone(&self.files);
            match tokio::task::spawn_blocking(move || files.read_again(true)).await {
                Ok(Ok(true)) => tracing::info!("the changed certificate is in use"),
                Ok(Err(error)) => {
                    tracing::error!(%error, "the changed certificate is not used; the one before it stays");
                }
                Ok(Ok(false)) => {}
                // The runtime ends.
                Err(_) => return,
            }
        }
    }

    pub(crate) fn render(&self, text: &mut Text) {
        let files = &*self.files;
        let expires = files.current().expires;
        if let Some(expires) = expires {
            let help = "When the certificate in use ends, in seconds since the Unix epoch.";
            text.single(
                "gauge",
                "tls_certificate_expires_seconds",
                help,
                expires.as_millis() / 1000,
            );
        }
        let help = "1 while the certificate files on the disk cannot be used.";
        let failing = u64::from(files.failing.load(Relaxed));
        text.single("gauge", "tls_reload_failing", help, failing);
        let help = "Times that a changed certificate came into use.";
        text.single("counter", "tls_reloads_total", help, files.reloads.get());
        let help = "Times that a changed certificate could not be used.";
        text.single(
            "counter",
            "tls_failed_reloads_total",
            help,
            files.failed_reloads.get(),
        );
    }
}

impl Files {
    /// Whether another certificate is in use now.
    fn read_again(&self, only_if_changed: bool) -> Result<bool, TlsError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let pem = contents(&self.cert, &self.key);
        let now = pem.as_ref().ok().map(digest);
        if only_if_changed && now == *seen {
            return Ok(false);
        }
        *seen = now;
        let fresh = pem.and_then(|pem| Current::new(&self.cert, &self.key, &pem));
        self.failing.store(fresh.is_err(), Relaxed);
        let count = if fresh.is_ok() {
            &self.reloads
        } else {
            &self.failed_reloads
        };
        count.add(1);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh?;
        Ok(true)
    }

    fn current(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn new(cert: &Path, key: &Path, pem: &[Vec<u8>; 2]) -> Result<Self, TlsError> {
        let bad_cert = || TlsError::Certificates {
            path: cert.to_owned(),
        };
        let chain: Result<Vec<CertificateDer<'static>>, pem::Error> =
            CertificateDer::pem_slice_iter(&pem[0]).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(bad_cert)?;
        let secret = PrivateKeyDer::from_pem_slice(&pem[1]);
        let secret = secret.map_err(|_| TlsError::Key {
            path: key.to_owned(),
        })?;
        let expires = expires(&chain[0]);
        let pair = |source| TlsError::Pair {
            cert: cert.to_owned(),
            key: key.to_owned(),
            source,
        };
        let provider = Arc::new(ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(pair)?
            .with_no_client_auth();
        let mut config = config.with_single_cert(chain, secret).map_err(pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            expires,
        })
    }
}

/// When a certificate ends (RFC 5280, section 4.1.2.5).
fn expires(certificate: &CertificateDer<'_>) -> Option<WallTime> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(WallTime::from_millis(seconds.saturating_mul(1000)))
}

/// What the certificates' and the key's files hold.
fn contents(cert: &Path, key: &Path) -> Result<[Vec<u8>; 2], TlsError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|source| TlsError::Io {
            path: path.to_owned(),
            source,
        })
    };
    Ok([read(cert)?, read(key)?])
}

fn digest([cert, key]: &[Vec<u8>; 2]) -> Digest {
    let hash = Sha256::new().chain_update(Sha256::digest(cert));
    hash.chain_update(key).finalize().into()
}
