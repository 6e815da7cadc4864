//! Two servers that share their rooms over NATS.

use std::{
    io,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::time::sleep;

use crate::{dialect::Dialect, server::Server};

/// How long NATS may take to listen, in tries ten milliseconds apart.
const TRIES: u32 = 1000;

/// The servers, and the NATS server between them, which is killed when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    _nats: Nats,
}

#[derive(Debug)]
struct Nats(Child);

impl Drop for Nats {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts two servers; `None`, after saying so, where there is no NATS server.
pub(crate) async fn start(store: &Path) -> io::Result<Option<Cluster>> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let spawned = Command::new("nats-server")
        .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
        .arg("--jetstream")
        .arg("--store_dir")
        .arg(store)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let nats = match spawned {
        Ok(process) => Nats(process),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!(
                "SKIP: two servers are not measured: no nats-server (apt-get install nats-server)"
            );
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut tries = 0..TRIES;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        tries.next().ok_or(io::ErrorKind::TimedOut)?;
        sleep(Duration::from_millis(10)).await;
    }
    let url = format!("nats://127.0.0.1:{port}");
    let server = |_| Server::ours(Dialect::Roundtable, &["--open", "--nats", &url]);
    let servers = (0..2).map(server).collect::<io::Result<_>>()?;
    Ok(Some(Cluster {
        servers,
        _nats: nats,
    }))
}
