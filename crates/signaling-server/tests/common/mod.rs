//! A running server and a client that can misbehave.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)] // for tests alone, each using a part

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use roundtable_core::{PeerId, RoomId};
use roundtable_signaling_client::{Backoff, ClientConfig, Event, EventStream};
use roundtable_signaling_server::{Server, ServerConfig};
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message},
};

/// Longer than anything here may take; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("took too long")
}

/// Whether a program is there that a test needs. Where it is not, says how to get it, or fails in a
/// strict run (`cargo xtask ci --strict`).
pub fn has_tool(program: &str, package: &str) -> bool {
    let runs = std::process::Command::new(program)
        .arg("--version")
        .output()
        .is_ok();
    let missing = format!("SKIP: no {program} (apt-get install {package})");
    assert!(
        runs || std::env::var_os("ROUNDTABLE_STRICT").is_none(),
        "{missing}"
    );
    if !runs {
        eprintln!("{missing}");
    }
    runs
}

/// A server on a free port, stopped by [`TestServer::stop`].
pub struct TestServer {
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

/// An open server's configuration. Without a message rate, which is not what most tests flood.
pub fn any_port() -> ServerConfig {
    ServerConfig::new("127.0.0.1:0".parse().unwrap())
        .with_open(true)
        .with_message_rate(None)
}

impl TestServer {
    pub fn start(config: ServerConfig) -> Self {
        let server = Server::bind(config).unwrap();
        let address = server.local_addr();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async { drop(stopped.await) }));
        Self {
            address,
            stop,
            running,
        }
    }

    pub fn open() -> Self {
        Self::start(any_port())
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        soon(self.running).await.unwrap();
    }

    pub fn config(&self, room: &str, name: &str) -> ClientConfig {
        let url = format!("ws://{}", self.address);
        let (room, name) = (RoomId::new(room).unwrap(), PeerId::new(name).unwrap());
        let backoff = Backoff {
            first: Duration::from_millis(50),
            base: Duration::from_millis(50),
            max: Duration::from_millis(200),
        };
        ClientConfig::new(&url, room, name)
            .unwrap()
            .with_backoff(backoff)
    }

    pub async fn raw(&self) -> Raw {
        Raw::connect(TcpStream::connect(self.address).await.unwrap()).await
    }

    /// A raw client that is in the room; also what the announce answered.
    pub async fn member(&self, room: &str, name: &str) -> (Raw, Value) {
        let mut raw = self.raw().await;
        let joined = raw.announce(room, name, Value::Null).await;
        assert!(joined["error"].is_null(), "{joined}");
        let joined = joined["result"].clone();
        (raw, joined)
    }

    /// Asks the HTTP interface; gives status and JSON.
    pub async fn http(&self, method: &str, path: &str, bearer: &str, body: &Value) -> (u16, Value) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {bearer}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        soon(stream.read_to_string(&mut response)).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        soon(stream.read_to_string(&mut response)).await.unwrap();
        response
    }
}

/// What happens to the connections of a wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    Cut,
    /// Nothing gets through any more, and nobody is told.
    Hang,
}

/// A wire to the server that can break. Connections made after a fault are whole.
pub struct Wire {
    pub address: SocketAddr,
    fault: watch::Sender<Fault>,
    _accepting: JoinSet<()>,
}

impl Wire {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (fault, faults) = watch::channel(Fault::Cut);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut faults = faults.clone();
                faults.mark_unchanged();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = faults.changed() => if *faults.borrow() == Fault::Hang {
                            std::future::pending::<()>().await;
                        }
                    }
                });
            }
        });
        Self {
            address,
            fault,
            _accepting: accepting,
        }
    }

    pub fn cut(&self) {
        self.fault.send_replace(Fault::Cut);
    }

    pub fn hang(&self) {
        self.fault.send_replace(Fault::Hang);
    }
}

/// Speaks JSON by hand.
pub struct Raw {
    socket: WebSocketStream<TcpStream>,
    notifications: VecDeque<Value>,
    last_id: i64,
}

impl Raw {
    pub async fn connect(stream: TcpStream) -> Self {
        let url = format!("ws://{}/v1/ws", stream.peer_addr().unwrap());
        let (socket, _) = soon(client_async(url, stream)).await.unwrap();
        Self {
            socket,
            notifications: VecDeque::new(),
            last_id: 0,
        }
    }

    pub async fn send_text(&mut self, text: impl Into<String>) {
        let message = Message::text(text.into());
        soon(self.socket.send(message)).await.unwrap();
    }

    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        soon(self.socket.send(message)).await
    }

    /// The next text message, or the close code.
    pub async fn receive(&mut self) -> Result<Value, Option<u16>> {
        loop {
            match soon(self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|f| f.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// Reads on until the server closes, and gives the code.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            if let Err(code) = self.receive().await {
                return code;
            }
        }
    }

    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send_text(request.to_string()).await;
        loop {
            let message = self.receive().await.unwrap();
            if message["id"] == id {
                return message;
            }
            assert!(message["id"].is_null(), "unexpected {message}");
            self.notifications.push_back(message);
        }
    }

    pub async fn announce(&mut self, room: &str, name: &str, resume: Value) -> Value {
        let mut params = json!({
            "protocol": 1, "room": room, "peer_id": name, "capabilities": ["data"],
        });
        if !resume.is_null() {
            params["resume"] = resume;
        }
        self.call("peer.announce", params).await
    }

    pub async fn offer(&mut self, to: &str, request_id: &str) -> Value {
        let params = json!({"to": to, "request_id": request_id, "sdp": "v=0"});
        self.call("peer.offer", params).await
    }

    pub async fn notification(&mut self) -> Value {
        match self.notifications.pop_front() {
            Some(message) => message,
            None => self.receive().await.unwrap(),
        }
    }

    /// Nothing has been sent to this client: a ping's answer comes first.
    pub async fn assert_nothing_came(&mut self) {
        self.call("ping", json!({})).await;
        assert!(self.notifications.is_empty(), "{:?}", self.notifications);
    }
}

pub fn code(response: &Value) -> i64 {
    response["error"]["code"].as_i64().unwrap_or(0)
}

pub async fn next(events: &mut EventStream) -> Event {
    soon(events.next()).await.expect("the stream ended")
}
