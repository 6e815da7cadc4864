//! Many clients at once, and what is measured with them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, interval_at, sleep},
};
use tokio_rustls::TlsConnector;

use crate::{
    clock,
    dialect::{self, Dialect, ROOM},
    server::Server,
    websocket::{Stream, WebSocket},
};

/// Connections that are being opened at a time, where the opening is not what is measured.
const OPENING: usize = 64;
/// Clients behind one source address.
const PER_ADDRESS: usize = 500;
/// Before anything is measured.
const SETTLE: Duration = Duration::from_secs(1);

/// Before a client that is refused asks again, as when its server has yet to find the others.
const RETRY: Duration = Duration::from_millis(250);

/// A client that is in.
pub(crate) type Client = WebSocket<Box<dyn Stream>>;

/// Clients that talk, how many messages a second they send together, and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) rate: usize,
    pub(crate) time: Duration,
}

/// What one message costs, and how long it takes.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) cpu_us: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Connects from one of the many addresses that a machine has to itself.
pub(crate) async fn dial(server: SocketAddr, client: usize) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let host = u8::try_from(2 + client / PER_ADDRESS).map_err(io::Error::other)?;
    socket.bind((IpAddr::from([127, 0, 0, host]), 0).into())?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn enter(
    server: SocketAddr,
    tls: Option<TlsConnector>,
    dialect: Dialect,
    client: usize,
) -> io::Result<Client> {
    let stream = dial(server, client).await?;
    let stream: Box<dyn Stream> = match tls {
        Some(tls) => {
            let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
            Box::new(tls.connect(name, stream).await?)
        }
        None => Box::new(stream),
    };
    let mut socket = WebSocket::open(stream, &dialect.target(client)).await?;
    let greeting = dialect.greeting(client);
    if let Some(greeting) = &greeting {
        socket.send(greeting).await?;
    }
    while dialect.tells() {
        let (is_in, is_refused) = socket
            .next(|text| (dialect.admits(text), text.contains("\"error\"")))
            .await?;
        if is_in {
            break;
        }
        if let Some(greeting) = greeting.as_ref().filter(|_| is_refused) {
            sleep(RETRY).await;
            socket.send(greeting).await?;
        }
    }
    socket.shrink();
    Ok(socket)
}

/// Opens `count` clients, each to the next of the servers in turn.
pub(crate) async fn gather(
    servers: &[Server],
    tls: Option<&TlsConnector>,
    count: usize,
) -> io::Result<Vec<Client>> {
    let opening = Arc::new(Semaphore::new(OPENING));
    let mut joining = JoinSet::new();
    for (client, server) in (0..count).zip(servers.iter().cycle()) {
        let (address, dialect, tls) = (server.address, server.dialect, tls.cloned());
        let opening = Arc::clone(&opening);
        joining.spawn(async move {
            let _turn = opening.acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((client, enter(address, tls, dialect, client).await?))
        });
    }
    let joined = joining.join_all().await.into_iter();
    let mut clients = joined.collect::<io::Result<Vec<_>>>()?;
    clients.sort_by_key(|(client, _)| *client);
    Ok(clients.into_iter().map(|(_, socket)| socket).collect())
}

/// Bytes of memory that each of `count` idle clients costs the server.
#[allow(clippy::cast_precision_loss)] // no machine has that many
pub(crate) async fn idle_bytes(
    server: &Server,
    tls: Option<&TlsConnector>,
    count: usize,
) -> io::Result<f64> {
    sleep(SETTLE).await;
    let before = server.memory()?;
    let clients = gather(std::slice::from_ref(server), tls, count).await?;
    sleep(SETTLE).await;
    Ok((server.memory()? - before) / clients.len() as f64)
}

/// What the load costs the servers, and how long it takes. With several servers, each message goes from one to another.
pub(crate) async fn relay(servers: &[Server], load: Load) -> io::Result<Relayed> {
    let Load {
        clients: count,
        rate,
        time,
    } = load;
    let clients = gather(servers, None, count).await?;
    let dialect = servers[0].dialect;
    let cpu_seconds = || {
        servers
            .iter()
            .map(Server::cpu_seconds)
            .sum::<io::Result<f64>>()
    };
    sleep(SETTLE).await;
    let received = Arc::new(AtomicU64::new(0));
    let start = clock::instant();
    let counted_from = clock::micros() + micros(SETTLE);
    let mut talking = JoinSet::new();
    for (client, socket) in clients.into_iter().enumerate() {
        let period = Duration::from_secs(1).mul_f64(to_f64(count) / to_f64(rate));
        let talk = Talk {
            socket,
            client,
            dialect,
            first: start + period.mul_f64(to_f64(client) / to_f64(count)),
            period,
            until: start + SETTLE + time,
            counted_from,
            received: Arc::clone(&received),
        };
        talking.spawn(talk.run());
    }
    sleep(SETTLE).await;
    let (cpu, messages) = (cpu_seconds()?, received.load(Relaxed));
    sleep(time).await;
    let (cpu, messages) = (cpu_seconds()? - cpu, received.load(Relaxed) - messages);
    let mut delays: Vec<u32> = Vec::new();
    // Everyone stays until all are done: who left early would be news to the others.
    let done = talking
        .join_all()
        .await
        .into_iter()
        .collect::<io::Result<Vec<_>>>()?;
    for (_, of_one) in &done {
        delays.extend(of_one);
    }
    delays.sort_unstable();
    let quantile = |q: usize| {
        delays
            .get(delays.len() * q / 100)
            .map_or(f64::NAN, |us| f64::from(*us) / 1000.0)
    };
    #[allow(clippy::cast_precision_loss)] // no run sends that many
    let cpu_us = cpu * 1e6 / messages as f64;
    Ok(Relayed {
        cpu_us,
        p50_ms: quantile(50),
        p99_ms: quantile(99),
    })
}

/// One client of [`relay`].
struct Talk {
    socket: Client,
    client: usize,
    dialect: Dialect,
    first: Instant,
    period: Duration,
    until: Instant,
    counted_from: u64,
    received: Arc<AtomicU64>,
}

impl Talk {
    /// Sends and receives until time is up; gives the socket and the microseconds that each received offer took.
    async fn run(mut self) -> io::Result<(Client, Vec<u32>)> {
        let mut delays: Vec<u32> = Vec::new();
        let mut ticks = interval_at(self.first, self.period);
        let mut number = 0;
        loop {
            tokio::select! {
                tick = ticks.tick() => {
                    if tick >= self.until {
                        return Ok((self.socket, delays));
                    }
                    number += 1;
                    let offer = self.dialect.offer(self.client, number, clock::micros());
                    self.socket.send(&offer).await?;
                }
                sent_at = self.socket.next(dialect::sent_at) => if let Some(sent_at) = sent_at? {
                    self.received.fetch_add(1, Relaxed);
                    if sent_at >= self.counted_from {
                        let delay = clock::micros().saturating_sub(sent_at);
                        delays.push(u32::try_from(delay).unwrap_or(u32::MAX));
                    }
                }
            }
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss)] // small numbers
pub(crate) fn to_f64(count: usize) -> f64 {
    count as f64
}

/// In every room each client offers to the next. Gives how many clients received just the offer that was for them.
pub(crate) async fn offer_around(clients: Vec<Client>, dialect: Dialect) -> usize {
    let mut offering = JoinSet::new();
    for (client, mut socket) in clients.into_iter().enumerate() {
        offering.spawn(async move {
            let room = client / ROOM * ROOM;
            let before = room + (client + ROOM - 1) % ROOM;
            let expected = format!("\"{before}-1\"");
            let exchange = async {
                socket
                    .send(&dialect.offer(client, 1, clock::micros()))
                    .await?;
                loop {
                    let heard = socket
                        .next(|text| dialect::sent_at(text).map(|_| text.contains(&expected)));
                    if let Some(is_ours) = heard.await? {
                        return io::Result::Ok(is_ours);
                    }
                }
            };
            exchange.await.unwrap_or(false)
        });
    }
    offering
        .join_all()
        .await
        .into_iter()
        .filter(|right| *right)
        .count()
}
