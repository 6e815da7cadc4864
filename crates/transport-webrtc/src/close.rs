//! How a link says why it closes. WebRTC has no close code, so the last message on Control is a
//! text: `{"close":{"code":0,"reason":"bye"}}`. Nothing else on Control is text.

use roundtable_core::CloseCode;
use roundtable_transport::Closed;
use serde_json::{Value, json};

/// The message that tells the peer of `closed`.
pub(crate) fn to_json(closed: &Closed) -> String {
    json!({ "close": { "code": closed.code.0, "reason": closed.reason } }).to_string()
}

/// Reads the peer's message; unknown members are skipped, a missing reason is empty, a long one is
/// cut.
pub(crate) fn parse(text: &str) -> Option<Closed> {
    let message: Value = serde_json::from_str(text).ok()?;
    let close = message.get("close")?;
    let code = u16::try_from(close.get("code")?.as_u64()?).ok()?;
    let reason = close.get("reason").and_then(Value::as_str);
    Some(Closed::new(
        CloseCode(code),
        reason.unwrap_or_default(),
        true,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_even_with_quotes_in_the_reason() {
        let closed = Closed::new(CloseCode::REPLACED, "moved to \"é\"", true);
        assert_eq!(parse(&to_json(&closed)), Some(closed));
        let bare = Closed::new(CloseCode(1999), "", true);
        assert_eq!(parse(r#"{"close":{"code":1999,"more":[]}}"#), Some(bare));
    }

    #[test]
    fn anything_else_is_not_a_close() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"close":{"code":70000}}"#,
            r#"{"close":1}"#,
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
