//! What the server sends: results, errors and notifications (JSON-RPC 2.0 §5).

use std::borrow::Cow;

use roundtable_core::PeerId;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use crate::{
    AnswerBody, Description, DescriptionError, IceCandidate, Joined, LeaveReason, MessageId,
    OfferBody, PeerInfo, RequestId, RpcError,
    json_rpc::{self, Party},
    limits,
    model::RawDescription,
    text,
};

/// The result of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To `peer.announce`.
    Joined(Box<Joined>),
    /// To what was passed on to another peer.
    Forwarded,
    /// To a `peer.disconnect` that leaves the room.
    Left,
    /// To `ping`.
    Pong {
        /// The server's clock, in milliseconds since the Unix epoch.
        server_time_ms: u64,
    },
    /// To `session.refresh`.
    Refreshed {
        /// When the new grant ends, in milliseconds since the Unix epoch.
        grant_expires_ms: u64,
    },
}

impl Reply {
    /// The response as JSON text.
    pub fn encode(&self, id: &MessageId) -> String {
        #[derive(Serialize)]
        struct Status {
            status: &'static str,
        }
        match self {
            Self::Joined(joined) => json_rpc::success(id, joined),
            Self::Forwarded => {
                let status = "forwarded";
                json_rpc::success(id, &Status { status })
            }
            Self::Left => json_rpc::success(id, &Status { status: "left" }),
            Self::Pong { server_time_ms } => {
                json_rpc::success(id, &json!({ "server_time_ms": server_time_ms }))
            }
            Self::Refreshed { grant_expires_ms } => {
                json_rpc::success(id, &json!({ "grant_expires_ms": grant_expires_ms }))
            }
        }
    }
}

impl RpcError {
    /// The error response as JSON text; without an id it answers `null`.
    pub fn encode(&self, id: Option<&MessageId>) -> String {
        json_rpc::failure(id, self)
    }
}

/// What the server tells a client unasked.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Notification {
    /// `peer.announced`: someone entered the room.
    PeerAnnounced(PeerInfo),
    /// `peer.left`.
    PeerLeft {
        /// Who.
        peer_id: PeerId,
        /// Why.
        reason: LeaveReason,
    },
    /// `peer.offer`.
    Offer {
        /// Who offers, as the server knows it.
        from: PeerId,
        /// To be used in the answer.
        request_id: RequestId,
        /// How to reach the offerer.
        body: OfferBody,
    },
    /// `peer.answer`.
    Answer {
        /// Who answers, as the server knows it.
        from: PeerId,
        /// The offer's.
        request_id: RequestId,
        /// How to reach the answerer.
        body: AnswerBody,
    },
    /// `peer.ice_candidate`.
    Candidate {
        /// Whose candidate, as the server knows it.
        from: PeerId,
        /// The offer's.
        request_id: RequestId,
        /// The candidate.
        candidate: IceCandidate,
    },
    /// `peer.disconnected`: the peer ended its negotiations with this one.
    Disconnected {
        /// Who.
        peer_id: PeerId,
        /// In its own words.
        reason: String,
    },
    /// `peer.offer_expired`: nobody answered in time.
    OfferExpired {
        /// Who was offered.
        to: PeerId,
        /// The offer's.
        request_id: RequestId,
    },
    /// `session.expiring`: without a `session.refresh` the connection closes when the grant ends.
    Expiring {
        /// How long until then, in milliseconds.
        expires_in_ms: u64,
    },
    /// `server.draining`: reconnect elsewhere with `resume`.
    Draining {
        /// When, in milliseconds from now.
        reconnect_after_ms: u64,
        /// Where; absent for the same URL.
        url: Option<String>,
    },
}

/// What a message about a negotiation has besides its body. Both are read by themselves, since a flattened body would first
/// be collected field by field.
#[derive(Deserialize)]
struct Address {
    #[serde(with = "text")]
    from: PeerId,
    request_id: RequestId,
}

#[derive(Deserialize)]
struct Left {
    #[serde(with = "text")]
    peer_id: PeerId,
    reason: LeaveReason,
}

#[derive(Deserialize)]
struct Disconnected {
    #[serde(with = "text")]
    peer_id: PeerId,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct OfferExpired {
    #[serde(with = "text")]
    to: PeerId,
    request_id: RequestId,
}

#[derive(Deserialize)]
struct Refreshed {
    grant_expires_ms: u64,
}

#[derive(Deserialize)]
struct Expiring {
    expires_in_ms: u64,
}

#[derive(Deserialize)]
struct Draining {
    reconnect_after_ms: u64,
    #[serde(default)]
    url: Option<String>,
}

fn encode_notification(method: &'static str, params: &impl Serialize) -> String {
    json_rpc::call(None, method, params)
}

fn encode_directed(
    method: &'static str,
    from: &PeerId,
    request_id: &RequestId,
    body: &str,
) -> String {
    json_rpc::directed(None, method, Party::From(from), request_id, body)
}

impl Notification {
    /// The notification as JSON text.
    pub fn encode(&self) -> String {
        match self {
            Self::PeerAnnounced(peer) => encode_notification("peer.announced", peer),
            Self::PeerLeft { peer_id, reason } => {
                let params = json!({ "peer_id": peer_id.as_str(), "reason": reason });
                encode_notification("peer.left", &params)
            }
            Self::Offer {
                from,
                request_id,
                body,
            } => encode_directed("peer.offer", from, request_id, &body.to_json()),
            Self::Answer {
                from,
                request_id,
                body,
            } => encode_directed("peer.answer", from, request_id, &body.to_json()),
            Self::Candidate {
                from,
                request_id,
                candidate,
            } => encode_directed("peer.ice_candidate", from, request_id, &candidate.to_json()),
            Self::Disconnected { peer_id, reason } => {
                let params = json!({ "peer_id": peer_id.as_str(), "reason": reason });
                encode_notification("peer.disconnected", &params)
            }
            Self::OfferExpired { to, request_id } => {
                let params = json!({ "to": to.as_str(), "request_id": request_id });
                encode_notification("peer.offer_expired", &params)
            }
            Self::Expiring { expires_in_ms } => {
                let params = json!({ "expires_in_ms": expires_in_ms });
                encode_notification("session.expiring", &params)
            }
            Self::Draining {
                reconnect_after_ms,
                url,
            } => {
                let mut params = json!({ "reconnect_after_ms": reconnect_after_ms });
                if let Some(url) = url {
                    params["url"] = json!(url);
                }
                encode_notification("server.draining", &params)
            }
        }
    }

    /// `None` for a method that this version does not know.
    fn parse(method: &str, params: &str) -> Result<Option<Self>, Malformed> {
        Ok(Some(match method {
            "peer.announced" => Self::PeerAnnounced(serde_json::from_str(params)?),
            "peer.left" => {
                let Left { peer_id, reason } = serde_json::from_str(params)?;
                Self::PeerLeft { peer_id, reason }
            }
            "peer.offer" | "peer.answer" => {
                let Address { from, request_id } = serde_json::from_str(params)?;
                let body: RawDescription = serde_json::from_str(params)?;
                let body = Description::try_from(body)?;
                match method {
                    "peer.offer" => Self::Offer {
                        from,
                        request_id,
                        body,
                    },
                    _ => Self::Answer {
                        from,
                        request_id,
                        body,
                    },
                }
            }
            "peer.ice_candidate" => {
                let Address { from, request_id } = serde_json::from_str(params)?;
                let candidate: IceCandidate = serde_json::from_str(params)?;
                if candidate.longest_field() > limits::MAX_CANDIDATE_LEN {
                    return Err(Malformed::TooLarge);
                }
                Self::Candidate {
                    from,
                    request_id,
                    candidate,
                }
            }
            "peer.disconnected" => {
                let Disconnected { peer_id, reason } = serde_json::from_str(params)?;
                Self::Disconnected { peer_id, reason }
            }
            "peer.offer_expired" => {
                let OfferExpired { to, request_id } = serde_json::from_str(params)?;
                Self::OfferExpired { to, request_id }
            }
            "session.expiring" => {
                let Expiring { expires_in_ms } = serde_json::from_str(params)?;
                Self::Expiring { expires_in_ms }
            }
            "server.draining" => {
                let Draining {
                    reconnect_after_ms,
                    url,
                } = serde_json::from_str(params)?;
                Self::Draining {
                    reconnect_after_ms,
                    url,
                }
            }
            _ => return Ok(None),
        }))
    }
}

/// A message from the server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ServerMessage {
    /// The result of a request: [`ServerMessage::joined`] or an object that says little.
    Result {
        /// The request's.
        id: MessageId,
        /// As it came.
        result: Box<RawValue>,
    },
    /// A request failed; without an id, some message could not be read.
    Error {
        /// The request's.
        id: Option<MessageId>,
        /// Why.
        error: RpcError,
    },
    /// Something happened.
    Notification(Notification),
    /// A notification that this version does not know; to be skipped.
    Unknown,
}

/// Why a message from the server could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Not the JSON that it should be.
    #[error("not a signaling message: {0}")]
    Json(#[from] serde_json::Error),
    /// An offer or answer with a bad body.
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// The message, or a field of it, exceeds its bound.
    #[error("larger than the protocol allows")]
    TooLarge,
    /// Neither a response nor a notification of JSON-RPC 2.0.
    #[error("neither a response nor a notification of JSON-RPC 2.0")]
    Envelope,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    #[serde(default)]
    id: Option<MessageId>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<RpcError>,
}

impl ServerMessage {
    /// Reads one message. Unknown members are skipped.
    ///
    /// # Errors
    /// [`Malformed`]; a client had best skip the message.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.len() > limits::MAX_MESSAGE_LEN {
            return Err(Malformed::TooLarge);
        }
        // Serde would read an array as a struct.
        if !text.trim_start().starts_with('{') {
            return Err(Malformed::Envelope);
        }
        let envelope: Envelope<'_> = serde_json::from_str(text)?;
        if envelope.jsonrpc != "2.0" {
            return Err(Malformed::Envelope);
        }
        match envelope {
            Envelope {
                method: Some(method),
                id: None,
                params,
                ..
            } => {
                let params = params.map_or("{}", RawValue::get);
                let notification = Notification::parse(&method, params)?;
                Ok(notification.map_or(Self::Unknown, Self::Notification))
            }
            Envelope {
                id,
                error: Some(error),
                ..
            } => Ok(Self::Error { id, error }),
            Envelope {
                id: Some(id),
                result: Some(result),
                ..
            } => Ok(Self::Result { id, result }),
            _ => Err(Malformed::Envelope),
        }
    }

    /// Reads the result of `peer.announce`.
    ///
    /// # Errors
    /// [`Malformed`] if it is no such result.
    pub fn joined(result: &RawValue) -> Result<Joined, Malformed> {
        Ok(serde_json::from_str(result.get())?)
    }

    /// Reads the result of `session.refresh`: when the new grant ends, in milliseconds since the
    /// Unix epoch.
    ///
    /// # Errors
    /// [`Malformed`] if it is no such result.
    pub fn refreshed(result: &RawValue) -> Result<u64, Malformed> {
        let Refreshed { grant_expires_ms } = serde_json::from_str(result.get())?;
        Ok(grant_expires_ms)
    }
}
