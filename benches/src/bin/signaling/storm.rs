//! Ten thousand peers who join a closed server at once, each with a grant.

use std::{fs, io, net::SocketAddr, path::Path};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    clock,
    crowd::{self, Client},
    dialect::{Dialect, ROOM, announce},
    server::Server,
    websocket::{Stream, WebSocket},
};

/// Failures that are told one by one.
const SHOWN: usize = 5;

/// How a storm went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Storm {
    /// From the first connection to the last peer that was in.
    pub(crate) seconds: f64,
    /// Peers that did not get in.
    pub(crate) failed: usize,
    /// Offers in all rooms that reached whom they were for, and nobody else.
    pub(crate) offers: usize,
}

/// Rooms and grants for everyone, and then everyone at once.
pub(crate) async fn run(server: &Server, data: &Path, count: usize) -> io::Result<Storm> {
    let announces = invite(server.address, data, count).await?;
    let address = server.address;
    let start = clock::micros();
    let mut joining = JoinSet::new();
    for (client, announce) in announces.into_iter().enumerate() {
        joining.spawn(async move { (client, join(address, client, &announce).await) });
    }
    let mut joined: Vec<(usize, Client)> = Vec::with_capacity(count);
    let (mut seconds, mut failed) = (0.0, 0);
    while let Some(result) = joining.join_next().await {
        match result.map_err(io::Error::other)? {
            (client, Ok(socket)) => {
                seconds = clock::seconds_since(start);
                joined.push((client, socket));
            }
            (client, Err(error)) => {
                failed += 1;
                if failed <= SHOWN {
                    eprintln!("client {client} is not in: {error}");
                }
            }
        }
    }
    if failed > SHOWN {
        eprintln!("nor are {} others", failed - SHOWN);
    }
    joined.sort_by_key(|(client, _)| *client);
    let clients = joined.into_iter().map(|(_, socket)| socket).collect();
    let offers = match failed {
        0 => crowd::offer_around(clients, Dialect::Roundtable).await,
        _ => 0,
    };
    Ok(Storm {
        seconds,
        failed,
        offers,
    })
}

async fn join(server: SocketAddr, client: usize, announce: &str) -> io::Result<Client> {
    let stream: Box<dyn Stream> = Box::new(crowd::dial(server, client).await?);
    let mut socket = WebSocket::open(stream, &Dialect::Roundtable.target(client)).await?;
    socket.send(announce).await?;
    match socket.next(|text| Dialect::Roundtable.admits(text)).await? {
        true => Ok(socket),
        false => Err(io::Error::other("refused")),
    }
}

/// Makes the rooms and exchanges their invites, as the service in front of a server would; gives everyone's announce.
async fn invite(server: SocketAddr, data: &Path, count: usize) -> io::Result<Vec<String>> {
    let operator: String =
        serde_json::from_str(&fs::read_to_string(data.join("operator-key.json"))?)?;
    let mut http = Http(TcpStream::connect(server).await?);
    let mut announces = Vec::with_capacity(count);
    let mut room = Value::Null;
    for client in 0..count {
        if client % ROOM == 0 {
            room = http.post("/v1/rooms", &operator, &Value::Null).await?;
        }
        let name = room["room"].as_str().unwrap_or_default();
        let body = json!({ "peer_id": format!("p{client}"), "invite": room["invite"] });
        let grant = http
            .post(&format!("/v1/rooms/{name}/grants"), "", &body)
            .await?;
        announces.push(announce(name, client, grant["token"].as_str()));
    }
    Ok(announces)
}

/// A connection for one request after the other.
struct Http(TcpStream);

impl Http {
    async fn post(&mut self, path: &str, bearer: &str, body: &Value) -> io::Result<Value> {
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.write_all(request.as_bytes()).await?;
        let mut response = Vec::new();
        loop {
            if self.0.read_buf(&mut response).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let text = String::from_utf8_lossy(&response);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let head = head.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if !head.starts_with("http/1.1 201") {
                return Err(io::Error::other(head));
            }
            if length.is_some_and(|length: usize| body.len() >= length) {
                return Ok(serde_json::from_str(body)?);
            }
        }
    }
}
