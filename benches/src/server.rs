//! A signaling server in this process, for the benches that need rooms.

use std::net::{Ipv4Addr, SocketAddr};

use roundtable_signaling_server::{Server, ServerConfig};
use tokio::task::JoinHandle;

/// An open server on loopback. It ends when this is dropped.
#[derive(Debug)]
pub struct OpenServer {
    url: String,
    serving: JoinHandle<()>,
}

impl OpenServer {
    /// Starts it, in the runtime that this is called in.
    ///
    /// # Panics
    /// If it cannot be bound, or without a runtime.
    #[must_use]
    #[allow(clippy::unwrap_used)] // a bench may fail loudly
    pub fn start() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(ServerConfig::new(any).with_open(true)).unwrap();
        Self {
            url: format!("ws://{}", server.local_addr()),
            serving: tokio::spawn(server.run(std::future::pending())),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for OpenServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
