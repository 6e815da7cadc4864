//! Names and requests as the tests write them.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)] // for tests alone, each using a part

use std::time::Duration;

use roundtable_core::{PeerId, RoomId};
use roundtable_signaling_protocol::{
    Announce, Capabilities, Capability, Description, IceCandidate, LeaveReason, Notification,
    Request, RequestId, ResumeToken,
};

pub const SECOND: Duration = Duration::from_secs(1);

pub fn peer(name: &str) -> PeerId {
    PeerId::new(name).unwrap()
}

pub fn id(text: &str) -> RequestId {
    RequestId::new(text).unwrap()
}

pub fn announce(name: &str, resume: Option<ResumeToken>) -> Announce {
    Announce {
        protocol: 1,
        room: RoomId::new("room").unwrap(),
        peer_id: peer(name),
        capabilities: Capabilities::from([Capability::Data]),
        token: None,
        resume,
        user_data: serde_json::Value::Null,
    }
}

pub fn sdp() -> Description {
    Description::WebRtc { sdp: "v=0".into() }
}

pub fn quic() -> Description {
    Description::Quic {
        author_key: "ab".repeat(32).parse().unwrap(),
        addresses: Vec::new(),
    }
}

pub fn offer(to: &str, request_id: &str) -> Request {
    offer_of(sdp(), to, request_id)
}

pub fn offer_of(body: Description, to: &str, request_id: &str) -> Request {
    Request::Offer {
        to: peer(to),
        request_id: id(request_id),
        body,
    }
}

pub fn answer(to: &str, request_id: &str) -> Request {
    answer_of(sdp(), to, request_id)
}

pub fn answer_of(body: Description, to: &str, request_id: &str) -> Request {
    Request::Answer {
        to: peer(to),
        request_id: id(request_id),
        body,
    }
}

pub fn candidate(to: &str, request_id: &str) -> Request {
    Request::Candidate {
        to: peer(to),
        request_id: id(request_id),
        candidate: IceCandidate::default(),
    }
}

pub fn leave() -> Request {
    Request::Disconnect {
        to: None,
        reason: String::new(),
    }
}

pub fn left(name: &str, reason: LeaveReason) -> Notification {
    Notification::PeerLeft {
        peer_id: peer(name),
        reason,
    }
}
