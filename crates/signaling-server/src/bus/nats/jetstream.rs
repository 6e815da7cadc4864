//! The rosters as a `JetStream` key-value bucket, changed by the expected sequence of a key's last message.
//!
//! The API is spoken as it was in NATS 2.9: later servers take it too, and the client library's own calls
//! want more.

use std::{collections::HashMap, sync::Arc};

use async_nats::HeaderMap;
use base64::{Engine, prelude::BASE64_STANDARD};
use roundtable_core::RoomId;
use roundtable_signaling_protocol::Roster;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{Changed, NatsBus, encode, last_token};
use crate::bus::{Record, Revision, Stored, Unreachable};

/// The expected sequence is not the last.
const WRONG_LAST_SEQUENCE: u64 = 10_071;
/// There is no such message.
const NO_MESSAGE: u64 = 10_037;

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    err_code: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Reply<T> {
    Failure { error: Failure },
    Success(T),
}

#[derive(Deserialize)]
struct StreamInfo {
    created: String,
    #[serde(default)]
    state: StreamState,
}

#[derive(Deserialize, Default)]
struct StreamState {
    #[serde(default)]
    subjects: HashMap<String, u64>,
}

#[derive(Deserialize)]
struct Got {
    message: StoredMessage,
}

#[derive(Deserialize)]
struct StoredMessage {
    seq: Revision,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct Ack {
    seq: Revision,
}

#[derive(Deserialize)]
struct Deleted {}

impl NatsBus {
    /// Asks JetStream.
    async fn api<T: DeserializeOwned>(
        &self,
        call: &str,
        body: &serde_json::Value,
    ) -> Result<Reply<T>, Unreachable> {
        let client = self.client()?;
        let reply = client.request(self.names.api(call), encode(body)).await;
        let reply = reply.map_err(|error| {
            tracing::debug!(%error, call, "JetStream does not answer");
            Unreachable
        })?;
        serde_json::from_slice(&reply.payload).map_err(|_| Unreachable)
    }

    /// Makes the bucket if it is not there; tells when it was made.
    pub(super) async fn make_bucket(&self) -> Result<String, Unreachable> {
        let config = json!({
            "name": self.names.stream,
            "subjects": [format!("{}.>", self.names.bucket)],
            "storage": "memory",
            "max_msgs_per_subject": 1,
            "discard": "new",
            "allow_rollup_hdrs": true,
            "num_replicas": 1,
        });
        if let Reply::Success(info) = self.api::<StreamInfo>("CREATE", &config).await? {
            return Ok(info.created);
        }
        // There is one, made otherwise, as by an operator who wants replicas.
        match self.api::<StreamInfo>("INFO", &json!({})).await? {
            Reply::Success(info) => Ok(info.created),
            Reply::Failure { .. } => Err(Unreachable),
        }
    }

    pub(super) async fn get(&self, room: &RoomId) -> Result<Record, Unreachable> {
        self.usable()?;
        let last = json!({ "last_by_subj": self.names.record(room) });
        match self.api::<Got>("MSG.GET", &last).await? {
            Reply::Success(Got { message }) => {
                let text = BASE64_STANDARD.decode(message.data);
                let text = text.map_err(|_| Unreachable)?;
                // Taken for empty, it would be written over: who is in the room would be forgotten.
                let roster: Roster = serde_json::from_slice(&text).map_err(|error| {
                    tracing::error!(%room, %error, "a record cannot be read");
                    Unreachable
                })?;
                Ok(Record {
                    revision: message.seq,
                    roster: Arc::new(roster),
                })
            }
            Reply::Failure { error } if error.err_code == NO_MESSAGE => Ok(Record::default()),
            Reply::Failure { .. } => Err(Unreachable),
        }
    }

    pub(super) async fn put(
        &self,
        room: &RoomId,
        expected: Revision,
        roster: &Roster,
    ) -> Result<Stored, Unreachable> {
        let client = self.usable()?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
        let sent = client
            .request_with_headers(self.names.record(room), headers, encode(roster))
            .await;
        let ack = sent.map_err(|error| {
            tracing::debug!(%error, %room, "a record cannot be stored");
            Unreachable
        })?;
        let revision = match serde_json::from_slice::<Reply<Ack>>(&ack.payload) {
            Ok(Reply::Success(Ack { seq })) => seq,
            Ok(Reply::Failure { error }) if error.err_code == WRONG_LAST_SEQUENCE => {
                return Ok(Stored::Conflict);
            }
            Ok(Reply::Failure { .. }) | Err(_) => return Err(Unreachable),
        };
        let changed = encode(&Changed { revision });
        // Whoever misses it reads the record by and by.
        let _ = client
            .publish(self.names.changed(room.as_str()), changed)
            .await;
        if !roster.is_empty() {
            return Ok(Stored::At(revision));
        }
        // By its number, so that a record that somebody has put in its place stays.
        let body = json!({ "seq": revision, "no_erase": true });
        match self.api::<Deleted>("MSG.DELETE", &body).await {
            Ok(_) => Ok(Stored::At(0)),
            Err(Unreachable) => Ok(Stored::At(revision)),
        }
    }

    pub(super) async fn list(&self) -> Result<Vec<RoomId>, Unreachable> {
        let filter = json!({ "subjects_filter": format!("{}.>", self.names.bucket) });
        match self.api::<StreamInfo>("INFO", &filter).await? {
            Reply::Success(info) => {
                let subjects = info.state.subjects.into_keys();
                Ok(subjects.filter_map(|s| last_token(&s)).collect())
            }
            Reply::Failure { .. } => Err(Unreachable),
        }
    }
}
