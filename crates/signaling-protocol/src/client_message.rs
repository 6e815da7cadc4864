//! What a client sends (JSON-RPC 2.0 §4): strict to parse, and each refusal carries the code that
//! the client is told.

use std::borrow::Cow;

use roundtable_core::{PeerId, RoomId};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
use serde_json::{Value, error::Category, json, value::RawValue};

use crate::{
    AnswerBody, Capabilities, Description, DescriptionError, ErrorCode, IceCandidate, Kind,
    MessageId, OfferBody, PeerInfo, RequestId, ResumeToken, RpcError,
    json_rpc::{self, Party},
    limits,
    model::RawDescription,
    text,
};

/// The parameters of `peer.announce`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Announce {
    /// Must be [`PROTOCOL_VERSION`](limits::PROTOCOL_VERSION).
    pub protocol: u32,
    /// The room to enter.
    #[serde(with = "text")]
    pub room: RoomId,
    /// The name to have there.
    #[serde(with = "text")]
    pub peer_id: PeerId,
    /// At least one that the server knows.
    pub capabilities: Capabilities,
    /// A grant; not needed where the server is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// From an earlier result, to take the same place again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<ResumeToken>,
    /// Shown to the others; at most 1 KiB, and 16 arrays or objects deep.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub user_data: Value,
}

impl Announce {
    pub(crate) fn info(&self) -> PeerInfo {
        PeerInfo {
            peer_id: self.peer_id.clone(),
            capabilities: self.capabilities,
            user_data: self.user_data.clone(),
        }
    }
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Request {
    /// `peer.announce`: enter a room.
    Announce(Box<Announce>),
    /// `peer.offer`.
    Offer {
        /// Who is offered.
        to: PeerId,
        /// Made by the offerer.
        request_id: RequestId,
        /// How to reach the offerer.
        body: OfferBody,
    },
    /// `peer.answer`.
    Answer {
        /// Who offered.
        to: PeerId,
        /// The offer's.
        request_id: RequestId,
        /// How to reach the answerer.
        body: AnswerBody,
    },
    /// `peer.ice_candidate`.
    Candidate {
        /// The other side of the negotiation.
        to: PeerId,
        /// The offer's.
        request_id: RequestId,
        /// The candidate.
        candidate: IceCandidate,
    },
    /// `peer.disconnect`: end the negotiation with `to`, or leave the room.
    Disconnect {
        /// The peer to disconnect from; `None` leaves the room.
        to: Option<PeerId>,
        /// For people, at most 200 bytes.
        reason: String,
    },
    /// `session.refresh`: a new grant on the live socket.
    Refresh {
        /// The grant.
        token: String,
    },
    /// `ping`.
    Ping,
}

impl Request {
    /// The method's name on the wire.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::Announce(_) => "peer.announce",
            Self::Offer { .. } => "peer.offer",
            Self::Answer { .. } => "peer.answer",
            Self::Candidate { .. } => "peer.ice_candidate",
            Self::Disconnect { .. } => "peer.disconnect",
            Self::Refresh { .. } => "session.refresh",
            Self::Ping => "ping",
        }
    }

    /// The other peer that it concerns, if there is one.
    pub const fn to(&self) -> Option<&PeerId> {
        match self {
            Self::Offer { to, .. } | Self::Answer { to, .. } | Self::Candidate { to, .. } => {
                Some(to)
            }
            Self::Disconnect { to, .. } => to.as_ref(),
            Self::Announce(_) | Self::Refresh { .. } | Self::Ping => None,
        }
    }
}

/// A message from a client.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientMessage {
    /// Present in a request, absent in a notification, which is never answered.
    pub id: Option<MessageId>,
    /// What the client asks for.
    pub request: Request,
}

/// Why a message was not taken, and which `id` to answer (`None` is `null`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message refused")]
pub struct Refusal {
    /// The request's id where it could be read.
    pub id: Option<MessageId>,
    /// Whether the message was a notification, which gets no answer even when it is refused.
    pub is_notification: bool,
    /// What the client is told.
    #[source]
    pub error: RpcError,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    #[serde(default, deserialize_with = "present")]
    id: Option<MessageId>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

/// An `id` that is there must be a good one: `null` is none.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MessageId>, D::Error> {
    MessageId::deserialize(deserializer).map(Some)
}

/// The parameters of `peer.offer` and `peer.answer`. They are read in one pass: a flattened body would first be collected field by
/// field.
#[derive(Deserialize)]
struct Described {
    #[serde(with = "text")]
    to: PeerId,
    request_id: RequestId,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    sdp: Option<String>,
    #[serde(default)]
    author_key: Option<String>,
    #[serde(default)]
    addresses: Option<Vec<String>>,
}

impl Described {
    fn split(self, code: ErrorCode) -> Result<(PeerId, RequestId, Description), RpcError> {
        let raw = RawDescription {
            kind: self.kind,
            sdp: self.sdp,
            author_key: self.author_key,
            addresses: self.addresses,
        };
        Ok((self.to, self.request_id, describe(raw, code)?))
    }
}

/// The address of a `peer.ice_candidate`, which is short enough to be read twice.
#[derive(Deserialize)]
struct Address {
    #[serde(with = "text")]
    to: PeerId,
    request_id: RequestId,
}

#[derive(Serialize, Deserialize)]
struct Disconnect {
    #[serde(
        default,
        with = "text::option",
        skip_serializing_if = "Option::is_none"
    )]
    to: Option<PeerId>,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Refresh {
    token: String,
}

fn invalid(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> RpcError {
    RpcError::new(code, message)
}

/// Checks the size of a message before it is read as JSON.
fn check_len(text: &str) -> Result<(), RpcError> {
    if text.len() > limits::MAX_MESSAGE_LEN {
        return Err(invalid(
            ErrorCode::MessageTooLarge,
            "a message has at most 64 KiB",
        ));
    }
    Ok(())
}

/// Batches and bare values are JSON, but no requests. (Serde would read an array as a struct.)
fn check_object(text: &str) -> Result<(), RpcError> {
    if text.trim_start().starts_with('{') {
        return Ok(());
    }
    Err(match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => invalid(
            ErrorCode::InvalidRequest,
            "not a JSON-RPC 2.0 request object",
        ),
        Err(_) => invalid(ErrorCode::ParseError, "not JSON"),
    })
}

fn describe(raw: RawDescription, code: ErrorCode) -> Result<Description, RpcError> {
    raw.try_into().map_err(|error: DescriptionError| {
        let code = match error {
            DescriptionError::SdpTooLarge => ErrorCode::MessageTooLarge,
            _ => code,
        };
        invalid(code, error.to_string())
    })
}

fn params<'a, T: Deserialize<'a>>(params: Option<&'a RawValue>) -> Result<T, RpcError> {
    let params = params.map_or("{}", RawValue::get);
    if params.len() > limits::MAX_PARAMS_LEN {
        let message = "params have at most 63 KiB";
        return Err(invalid(ErrorCode::MessageTooLarge, message));
    }
    if !params.starts_with('{') {
        let message = "params must be an object";
        return Err(invalid(ErrorCode::InvalidParams, message));
    }
    serde_json::from_str(params).map_err(|e| invalid(ErrorCode::InvalidParams, e.to_string()))
}

/// What serde_json takes for JSON within a string, where it is an object's first member: such a string
/// could hold arrays that nobody has counted.
const RAW_VALUE_KEY: &str = "$serde_json::private::RawValue";

/// Whether `value` has at most `depth` arrays and objects within each other, and will be read as it is
/// written.
fn is_shallow(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) if depth == 0 => false,
        Value::Array(items) => items.iter().all(|item| is_shallow(item, depth - 1)),
        Value::Object(members) => members
            .iter()
            .all(|(key, item)| key != RAW_VALUE_KEY && is_shallow(item, depth - 1)),
        _ => true,
    }
}

fn parse_announce(raw: Option<&RawValue>) -> Result<Request, RpcError> {
    let announce: Announce = params(raw)?;
    if announce.protocol != limits::PROTOCOL_VERSION {
        let message = "this server speaks protocol 1";
        return Err(invalid(ErrorCode::InvalidParams, message));
    }
    if announce.capabilities.is_empty() {
        let message = "capabilities must name at least one that is known";
        return Err(invalid(ErrorCode::InvalidParams, message));
    }
    // Others could not read what is deeper, nor what is with it.
    if !is_shallow(&announce.user_data, limits::MAX_USER_DATA_DEPTH) {
        let message = "user_data is at most 16 arrays or objects deep, of plain members";
        return Err(invalid(ErrorCode::InvalidParams, message));
    }
    if announce.user_data.to_string().len() > limits::MAX_USER_DATA_LEN {
        let message = "user_data has at most 1 KiB";
        return Err(invalid(ErrorCode::MessageTooLarge, message));
    }
    Ok(Request::Announce(Box::new(announce)))
}

fn parse_candidate(raw: Option<&RawValue>) -> Result<Request, RpcError> {
    let Address { to, request_id } = params(raw)?;
    let candidate: IceCandidate = params(raw)?;
    if candidate.longest_field() > limits::MAX_CANDIDATE_LEN {
        let message = "a candidate has at most 1 KiB";
        return Err(invalid(ErrorCode::MessageTooLarge, message));
    }
    if candidate.candidate.contains(['\r', '\n', '\0']) {
        let message = "a candidate is one line";
        return Err(invalid(ErrorCode::IceCandidateInvalid, message));
    }
    Ok(Request::Candidate {
        to,
        request_id,
        candidate,
    })
}

fn parse_disconnect(raw: Option<&RawValue>) -> Result<Request, RpcError> {
    let Disconnect { to, reason } = params(raw)?;
    if reason.len() > limits::MAX_REASON_LEN {
        let message = "a reason has at most 200 bytes";
        return Err(invalid(ErrorCode::MessageTooLarge, message));
    }
    Ok(Request::Disconnect { to, reason })
}

fn parse_request(method: &str, raw: Option<&RawValue>) -> Result<Request, RpcError> {
    match method {
        "peer.announce" => parse_announce(raw),
        "peer.offer" => {
            let params: Described = params(raw)?;
            let (to, request_id, body) = params.split(ErrorCode::OfferInvalid)?;
            Ok(Request::Offer {
                to,
                request_id,
                body,
            })
        }
        "peer.answer" => {
            let params: Described = params(raw)?;
            let (to, request_id, body) = params.split(ErrorCode::AnswerInvalid)?;
            Ok(Request::Answer {
                to,
                request_id,
                body,
            })
        }
        "peer.ice_candidate" => parse_candidate(raw),
        "peer.disconnect" => parse_disconnect(raw),
        "session.refresh" => {
            let Refresh { token } = params(raw)?;
            Ok(Request::Refresh { token })
        }
        "ping" => Ok(Request::Ping),
        _ => Err(invalid(ErrorCode::MethodNotFound, "no such method")),
    }
}

impl ClientMessage {
    /// A request that wants an answer.
    pub fn request(id: MessageId, request: Request) -> Self {
        Self {
            id: Some(id),
            request,
        }
    }

    /// A notification: the same, without an answer.
    pub fn notification(request: Request) -> Self {
        Self { id: None, request }
    }

    /// Reads one message. Unknown members are skipped; batches are refused.
    ///
    /// # Errors
    /// [`Refusal`] holds the error response that the client is to get.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let unreadable = |error| Refusal {
            id: None,
            is_notification: false,
            error,
        };
        check_len(text).map_err(unreadable)?;
        check_object(text).map_err(unreadable)?;
        let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|error| {
            unreadable(match error.classify() {
                Category::Data => invalid(
                    ErrorCode::InvalidRequest,
                    "not a JSON-RPC 2.0 request object",
                ),
                _ => invalid(ErrorCode::ParseError, "not JSON"),
            })
        })?;
        if envelope.jsonrpc != "2.0" {
            let error = invalid(ErrorCode::InvalidRequest, "jsonrpc must be \"2.0\"");
            return Err(unreadable(error));
        }
        match parse_request(&envelope.method, envelope.params) {
            Ok(request) => Ok(Self {
                id: envelope.id,
                request,
            }),
            Err(error) => Err(Refusal {
                is_notification: envelope.id.is_none(),
                id: envelope.id,
                error,
            }),
        }
    }

    /// The message as JSON text.
    pub fn encode(&self) -> String {
        let method = self.request.method();
        let encode = |params: &Value| json_rpc::call(self.id.as_ref(), method, params);
        match &self.request {
            Request::Announce(announce) => json_rpc::call(self.id.as_ref(), method, announce),
            Request::Offer {
                to,
                request_id,
                body,
            }
            | Request::Answer {
                to,
                request_id,
                body,
            } => self.encode_directed(to, request_id, &body.to_json()),
            Request::Candidate {
                to,
                request_id,
                candidate,
            } => self.encode_directed(to, request_id, &candidate.to_json()),
            Request::Disconnect { to, reason } => encode(&json!(Disconnect {
                to: to.clone(),
                reason: reason.clone(),
            })),
            Request::Refresh { token } => encode(&json!({ "token": token })),
            Request::Ping => encode(&json!({})),
        }
    }

    fn encode_directed(&self, to: &PeerId, request_id: &RequestId, body: &str) -> String {
        let (id, method) = (self.id.as_ref(), self.request.method());
        json_rpc::directed(id, method, Party::To(to), request_id, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Joined, ServerMessage};

    fn announce(user_data: &str) -> Result<PeerInfo, ErrorCode> {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"peer.announce","params":{{"protocol":1,"room":"r","peer_id":"p","capabilities":["data"],"user_data":{user_data}}}}}"#
        );
        match ClientMessage::parse(&text)
            .map_err(|refusal| refusal.error.code)?
            .request
        {
            Request::Announce(announce) => Ok(announce.info()),
            other => panic!("{other:?}"),
        }
    }

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn user_data_is_only_so_deep_that_others_can_read_it() {
        let deepest = announce(&nested(16)).unwrap();
        let joined = json!({
            "peer_id": "q", "room": "r", "resumed": false, "peers": [deepest], "max_peers": 2,
            "resume": "00".repeat(16), "resume_ttl_ms": 1, "ice_servers": [], "server_time_ms": 1,
        });
        let told = json!({ "jsonrpc": "2.0", "id": 1, "result": joined }).to_string();
        let Ok(ServerMessage::Result { result, .. }) = ServerMessage::parse(&told) else {
            panic!("{told}");
        };
        let joined: Joined = ServerMessage::joined(&result).unwrap();
        assert_eq!(joined.peers, [deepest]);

        for depth in [17, 100, 125] {
            assert_eq!(announce(&nested(depth)), Err(ErrorCode::InvalidParams));
        }
        let object = format!("{}1{}", r#"{"a":"#.repeat(17), "}".repeat(17));
        assert_eq!(announce(&object), Err(ErrorCode::InvalidParams));
    }

    #[test]
    fn a_string_in_user_data_is_never_read_as_json_by_others() {
        let hidden = nested(120);
        for smuggler in [
            format!(r#"{{"{RAW_VALUE_KEY}":"{hidden}"}}"#),
            // Sorted, the member comes first: only who reads it next would look into it.
            format!(r#"{{"a":1,"{RAW_VALUE_KEY}":"{hidden}"}}"#),
            format!(r#"{{"{RAW_VALUE_KEY}":"{{\"a\":1,\"{RAW_VALUE_KEY}\":\"{hidden}\"}}"}}"#),
        ] {
            assert_eq!(
                announce(&smuggler),
                Err(ErrorCode::InvalidParams),
                "{smuggler}"
            );
        }
    }
}
