//! A cable between two peers, and from both to the signaling server, that can be cut.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinSet,
};

/// Each peer sees the other, and the server, at the cable's ends. Signaling is rewritten accordingly: addresses have the same length.
pub(crate) struct Cable {
    /// The server, by the cable.
    pub(crate) url: String,
    /// Where the two peers must bind.
    pub(crate) peers: [SocketAddr; 2],
    links: watch::Sender<bool>,
    signaling: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Cable {
    pub(crate) async fn lay(server: &str) -> Self {
        let server: SocketAddr = server.strip_prefix("ws://").unwrap().parse().unwrap();
        let (links, signaling) = (watch::Sender::new(true), watch::Sender::new(true));
        let mut ends = Vec::new();
        for _ in 0..2 {
            ends.push(Arc::new(five_digits().await));
        }
        let mut peers = Vec::new();
        for _ in 0..2 {
            // Let go of at once, for the peer to bind.
            peers.push(five_digits().await.local_addr().unwrap());
        }
        let peers = [peers[0], peers[1]];
        let mut tasks = JoinSet::new();
        // What comes to the end before one peer is from it, and for the other.
        let mut names = Vec::new();
        for (near, far) in [(0, 1), (1, 0)] {
            let (from, to) = (Arc::clone(&ends[near]), Arc::clone(&ends[far]));
            tasks.spawn(pass_packets(from, to, peers[far], links.subscribe()));
            let seen = ends[far].local_addr().unwrap();
            names.push((peers[near].to_string(), seen.to_string()));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        tasks.spawn(pass_signaling(
            listener,
            server,
            names,
            signaling.subscribe(),
        ));
        Self {
            url,
            peers,
            links,
            signaling,
            _tasks: tasks,
        }
    }

    pub(crate) fn cut(&self) {
        self.links.send_replace(false);
        self.signaling.send_replace(false);
    }

    pub(crate) fn mend_links(&self) {
        self.links.send_replace(true);
    }

    pub(crate) fn mend_signaling(&self) {
        self.signaling.send_replace(true);
    }
}

/// A socket whose port is as long as those of the others.
async fn five_digits() -> UdpSocket {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if socket.local_addr().unwrap().port() >= 10_000 {
            return socket;
        }
    }
}

/// Loses what comes while the cable is cut.
async fn pass_packets(
    from: Arc<UdpSocket>,
    to: Arc<UdpSocket>,
    peer: SocketAddr,
    whole: watch::Receiver<bool>,
) {
    let mut packet = vec![0; 65_536];
    loop {
        // On loopback an error is the news that a peer has closed its socket.
        let Ok((len, _)) = from.recv_from(&mut packet).await else {
            continue;
        };
        if *whole.borrow() {
            let _ = to.send_to(&packet[..len], peer).await;
        }
    }
}

async fn pass_signaling(
    listener: TcpListener,
    server: SocketAddr,
    names: Vec<(String, String)>,
    whole: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let Ok(server) = TcpStream::connect(server).await else {
            continue;
        };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tasks.spawn(pass_bytes(
            from_client,
            to_server,
            Vec::new(),
            whole.clone(),
        ));
        tasks.spawn(pass_bytes(
            from_server,
            to_client,
            names.clone(),
            whole.clone(),
        ));
    }
}

/// Holds back what comes while the cable is cut, as TCP does.
async fn pass_bytes(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    names: Vec<(String, String)>,
    mut whole: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(len @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        for (real, seen) in &names {
            rewrite(&mut buffer[..len], real.as_bytes(), seen.as_bytes());
        }
        if whole.wait_for(|whole| *whole).await.is_err()
            || to.write_all(&buffer[..len]).await.is_err()
        {
            return;
        }
    }
}

fn rewrite(bytes: &mut [u8], real: &[u8], seen: &[u8]) {
    assert_eq!(real.len(), seen.len());
    for at in 0..bytes.len().saturating_sub(real.len() - 1) {
        if bytes[at..].starts_with(real) {
            bytes[at..at + real.len()].copy_from_slice(seen);
        }
    }
}
