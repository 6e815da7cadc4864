//! The objects of JSON-RPC 2.0 (§4, §5) as text, written in one pass: a server does this for every message.

use serde::Serialize;

use crate::MessageId;

const VERSION: &str = "2.0";

#[derive(Serialize)]
struct Call<'a, P> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a MessageId>,
    method: &'static str,
    params: &'a P,
}

#[derive(Serialize)]
struct Success<'a, R> {
    jsonrpc: &'static str,
    id: &'a MessageId,
    result: &'a R,
}

#[derive(Serialize)]
struct Failure<'a, E> {
    jsonrpc: &'static str,
    id: Option<&'a MessageId>,
    error: &'a E,
}

/// A request, or without an id a notification.
pub(crate) fn call(
    id: Option<&MessageId>,
    method: &'static str,
    params: &impl Serialize,
) -> String {
    text(&Call {
        jsonrpc: VERSION,
        id,
        method,
        params,
    })
}

/// The response to a request that succeeded.
pub(crate) fn success(id: &MessageId, result: &impl Serialize) -> String {
    text(&Success {
        jsonrpc: VERSION,
        id,
        result,
    })
}

/// The response to one that failed; without an id it answers `null`.
pub(crate) fn failure(id: Option<&MessageId>, error: &impl Serialize) -> String {
    text(&Failure {
        jsonrpc: VERSION,
        id,
        error,
    })
}

fn text(message: &impl Serialize) -> String {
    // Fails for maps with keys that are not strings; none of ours has such keys.
    serde_json::to_string(message).unwrap_or_default()
}
