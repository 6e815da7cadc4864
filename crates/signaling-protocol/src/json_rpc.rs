//! The objects of JSON-RPC 2.0 (§4, §5) as text, written in one pass: a server does this for every message.

use std::fmt::Write;

use roundtable_core::PeerId;
use serde::Serialize;

use crate::{MessageId, RequestId};

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

/// The other peer of a message about a negotiation, as its sender or its receiver is told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Party<'a> {
    From(&'a PeerId),
    To(&'a PeerId),
}

/// A message about a negotiation; without an id a notification. `body` is a JSON object that has members: they stand beside the
/// peer's name.
pub(crate) fn directed(
    id: Option<&MessageId>,
    method: &'static str,
    party: Party<'_>,
    request_id: &RequestId,
    body: &str,
) -> String {
    let (role, peer) = match party {
        Party::From(peer) => ("from", peer),
        Party::To(peer) => ("to", peer),
    };
    let mut json = String::with_capacity(body.len() + 256);
    json.push_str(r#"{"jsonrpc":"2.0","#);
    if let Some(id) = id {
        json.push_str(r#""id":"#);
        json.push_str(&text(id));
        json.push(',');
    }
    // By their grammar names need no escapes, and writing to a string does not fail.
    let _ = write!(
        json,
        r#""method":"{method}","params":{{"{role}":"{peer}","request_id":"{request_id}",{}}}"#,
        body.strip_prefix('{').unwrap_or(body)
    );
    json
}

/// Appends `text` as a JSON string (RFC 8259, section 7). What needs no escape is copied in one piece: a session description is long,
/// and has few that do.
pub(crate) fn quote(text: &str, json: &mut String) {
    json.push('"');
    let mut rest = text;
    while let Some(at) = find_special(rest.as_bytes()) {
        json.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => json.push_str("\\\""),
            b'\\' => json.push_str("\\\\"),
            b'\n' => json.push_str("\\n"),
            b'\r' => json.push_str("\\r"),
            b'\t' => json.push_str("\\t"),
            0x08 => json.push_str("\\b"),
            0x0c => json.push_str("\\f"),
            // Writing to a string does not fail.
            control => drop(write!(json, "\\u{control:04x}")),
        }
        // It is ASCII, so that what follows begins with a character.
        rest = &rest[at + 1..];
    }
    json.push_str(rest);
    json.push('"');
}

/// Where the first byte is that a JSON string does not hold as it is.
fn find_special(bytes: &[u8]) -> Option<usize> {
    const STEP: usize = 16;
    let is_special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    // Without an exit on the way, so that the processor looks at all of a step at once.
    let is_clean = |step: &[u8]| !step.iter().fold(false, |any, byte| any | is_special(byte));
    let clean = bytes.chunks_exact(STEP).take_while(|step| is_clean(step));
    let skipped = STEP * clean.count();
    let at = bytes[skipped..].iter().position(is_special)?;
    Some(skipped + at)
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

/// Anything as JSON text.
pub(crate) fn text(message: &impl Serialize) -> String {
    // Fails for maps with keys that are not strings; none of ours has such keys.
    serde_json::to_string(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(text: &str) -> String {
        let mut json = String::new();
        quote(text, &mut json);
        json
    }

    #[test]
    fn every_character_that_json_escapes_is_quoted_as_serde_does_it_wherever_it_stands() {
        for special in (0..=0x7f).map(char::from) {
            for before in [0, 1, 15, 16, 17, 40] {
                let text = format!("{}{special}é{}", "x".repeat(before), "y".repeat(20));
                assert_eq!(quoted(&text), serde_json::to_string(&text).unwrap());
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_quoted_as_serde_does_it(text in any::<String>()) {
            prop_assert_eq!(quoted(&text), serde_json::to_string(&text).unwrap());
        }
    }
}
