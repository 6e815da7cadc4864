//! Runs `vectors/*.json`: conversations with a server, message by message, for clients in any
//! language. `docs/protocols/signaling.md` says how to read them. `UPDATE_VECTORS=1` writes what
//! the code does into them, to be reviewed as a diff.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::{fs, path::PathBuf};

use roundtable_core::{RoomId, Timestamp, WallTime};
use roundtable_signaling_protocol::{
    ClientMessage, CloseReason, ConnectionId, ErrorCode, Output, Reply, Request, ResumeToken, Room,
    RoomLimits, RpcError, ServerMessage,
};
use serde_json::{Value, json};

/// A server reduced to one room, its clock, and tokens that are numbered.
struct Server {
    room: Room,
    tokens: u8,
    announced: Vec<u64>,
}

impl Server {
    fn new(max_peers: u64) -> Self {
        let limits = RoomLimits {
            max_peers: usize::try_from(max_peers).unwrap(),
            ..RoomLimits::default()
        };
        Self {
            room: Room::new(RoomId::new("demo").unwrap(), limits),
            tokens: 0,
            announced: Vec::new(),
        }
    }

    /// What the sender is answered, and whether its connection is then closed.
    fn answer(&mut self, at_ms: u64, connection: u64, text: &str) -> (Option<String>, bool) {
        let ClientMessage { id, request } = match ClientMessage::parse(text) {
            Ok(message) => message,
            Err(refusal) if refusal.is_notification => return (None, false),
            Err(refusal) => return (Some(refusal.error.encode(refusal.id.as_ref())), false),
        };
        let outcome = match request {
            Request::Announce(announce) if !self.announced.contains(&connection) => {
                self.tokens += 1;
                let token = ResumeToken::from_random([self.tokens; 16]);
                let wall = WallTime::from_millis(1_800_000_000_000 + at_ms);
                let joined = self
                    .room
                    .announce(wall, ConnectionId(connection), *announce, token);
                if joined.is_ok() {
                    self.announced.push(connection);
                }
                joined.map(|joined| Reply::Joined(Box::new(joined)))
            }
            _ if !self.announced.contains(&connection) => {
                let message = "peer.announce comes first";
                Err(RpcError::new(ErrorCode::NotAnnounced, message))
            }
            request => {
                let now = Timestamp::from_millis(at_ms);
                self.room.handle(now, ConnectionId(connection), request)
            }
        };
        let has_left = outcome == Ok(Reply::Left);
        let text = id.map(|id| match outcome {
            Ok(reply) => reply.encode(&id),
            Err(error) => error.encode(Some(&id)),
        });
        (text, has_left)
    }

    fn step(&mut self, step: &Value) -> Value {
        let at_ms = step["at_ms"].as_u64().unwrap();
        let mut heard = Vec::new();
        let message = |connection: u64, text: &str| {
            ServerMessage::parse(text).expect("our own messages can be read");
            let mut message: Value = serde_json::from_str(text).unwrap();
            if let Some(error) = message.get_mut("error").and_then(Value::as_object_mut) {
                error.remove("message"); // for people; other servers say it otherwise
            }
            json!({ "on": connection, "message": message })
        };
        self.room.handle_timeout(Timestamp::from_millis(at_ms));
        if let Some(connection) = step["lose"].as_u64() {
            self.room
                .connection_lost(Timestamp::from_millis(at_ms), ConnectionId(connection));
        }
        if let Some(connection) = step["on"].as_u64() {
            let text = match &step["text"] {
                Value::String(text) => text.clone(),
                _ => step["send"].to_string(),
            };
            let (answer, has_left) = self.answer(at_ms, connection, &text);
            heard.extend(answer.map(|answer| message(connection, &answer)));
            if has_left {
                // The connection's part, as the room sees none.
                heard.push(json!({ "on": connection, "close": CloseReason::Left.code() }));
            }
        }
        while let Some(output) = self.room.poll_output() {
            heard.push(match output {
                Output::Send { to, message: text } => message(to.0, &text.encode()),
                Output::Close { connection, reason } => {
                    json!({ "on": connection.0, "close": reason.code() })
                }
            });
        }
        Value::Array(heard)
    }
}

#[test]
fn every_conversation_goes_as_written() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let update = std::env::var_os("UPDATE_VECTORS").is_some();
    let mut conversations = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut conversation: Value =
            serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut server = Server::new(conversation["max_peers"].as_u64().unwrap());
        for (number, step) in conversation["steps"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .enumerate()
        {
            let heard = server.step(step);
            if update {
                step["hear"] = heard;
            } else {
                assert_eq!(step["hear"], heard, "{}, step {number}", path.display());
            }
        }
        if update {
            let text = serde_json::to_string_pretty(&conversation).unwrap();
            fs::write(&path, text + "\n").unwrap();
        }
        conversations += 1;
    }
    assert!(conversations >= 5, "the vectors are there");
}
