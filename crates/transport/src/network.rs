//! The seam below the links that run over UDP: another network than the system's.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;

/// A network that carries datagrams in place of the system's UDP, such as a simulated one. Links that are
/// given it open no socket of the system: they listen for no TCP, and use neither STUN or TURN servers nor multicast DNS.
///
/// In a tokio runtime whose clock is paused, such links live in virtual time:
/// [`SystemClock`](crate::SystemClock) shows that runtime's.
pub trait Network: fmt::Debug + Send + Sync + 'static {
    /// A new socket under the one address that this machine has now.
    ///
    /// # Errors
    /// As the network sees fit; whoever wanted the socket fails with it.
    fn bind(&self) -> io::Result<Arc<dyn DatagramSocket>>;

    /// What a link's own random numbers begin with, as far as its libraries let them be chosen.
    fn seed(&self) -> [u8; 32];
}

/// A socket of a [`Network`]. One task reads it; dropping the last handle closes it.
pub trait DatagramSocket: fmt::Debug + Send + Sync + 'static {
    /// Under which address others reach it.
    fn local_address(&self) -> SocketAddr;

    /// Sends a datagram, or loses it. Never waits.
    fn send(&self, to: SocketAddr, payload: &[u8]);

    /// A datagram that has arrived, and where it came from.
    fn try_recv(&self) -> Option<(SocketAddr, Bytes)>;

    /// Whether there is one; wakes the task that asked last when there is.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A [`Network`] in a link's configuration. Equal to itself and its clones alone.
#[derive(Debug, Clone)]
pub struct NetworkHandle(Arc<dyn Network>);

impl NetworkHandle {
    /// A handle of `network`.
    pub fn new(network: Arc<dyn Network>) -> Self {
        Self(network)
    }
}

impl std::ops::Deref for NetworkHandle {
    type Target = dyn Network;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl PartialEq for NetworkHandle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for NetworkHandle {}
