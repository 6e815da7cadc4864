//! A client that speaks JSON by hand, and may lie.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)] // for tests alone, each using a part

use std::{collections::VecDeque, net::TcpStream, time::Duration};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use crate::common::Serve;

pub struct Client {
    pub socket: WebSocket<TcpStream>,
    notifications: VecDeque<Value>,
}

impl Client {
    pub fn connect(serve: &Serve) -> Self {
        let stream = TcpStream::connect(&serve.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream.set_nodelay(true).unwrap();
        let url = format!("ws://{}/v1/ws", serve.address);
        Self {
            socket: client(url, stream).unwrap().0,
            notifications: VecDeque::new(),
        }
    }

    /// In a room; the name of a lost peer stays taken for a while.
    pub fn member(serve: &Serve, room: &str, name: &str) -> Self {
        let mut client = Self::connect(serve);
        let answer = client.announce(room, name, &Value::Null);
        assert!(answer["error"].is_null(), "{answer}");
        client
    }

    /// Announces, with a resume token unless that is null; gives the answer.
    pub fn announce(&mut self, room: &str, name: &str, resume: &Value) -> Value {
        let mut params =
            json!({"protocol": 1, "room": room, "peer_id": name, "capabilities": ["data"]});
        if !resume.is_null() {
            params["resume"] = resume.clone();
        }
        self.call("peer.announce", &params).unwrap()
    }

    /// The answer; `None` if the server closes.
    pub fn call(&mut self, method: &str, params: &Value) -> Option<Value> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.socket.send(Message::text(request.to_string())).ok()?;
        loop {
            let message = self.read()?;
            if message["id"] == 1 {
                return Some(message);
            }
            self.notifications.push_back(message);
        }
    }

    /// The next notification of this method; others are skipped. `None` if the server closes.
    pub fn hears(&mut self, method: &str) -> Option<Value> {
        loop {
            let message = match self.notifications.pop_front() {
                Some(message) => message,
                None => self.read()?,
            };
            if message["method"] == method {
                return Some(message["params"].clone());
            }
        }
    }

    fn read(&mut self) -> Option<Value> {
        loop {
            match self.socket.read().ok()? {
                Message::Text(text) => return Some(serde_json::from_str(&text).unwrap()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }
}
