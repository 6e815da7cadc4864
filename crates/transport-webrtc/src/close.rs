//! How a link says why it closes. WebRTC has no close code, so the last message on Control is a
//! text: `{"close":{"code":0,"reason":"bye"}}`. Nothing else on Control is text.

use roundtable_core::CloseCode;
use serde_json::{Value, json};

use crate::peer::Event;

/// The longest reason that is sent or taken, in bytes.
const MAX_REASON: usize = 200;

/// The link's last message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CloseMessage {
    code: CloseCode,
    reason: String,
}

impl CloseMessage {
    pub(crate) fn new(code: CloseCode, reason: &str) -> Self {
        let end = reason.floor_char_boundary(MAX_REASON);
        let reason = reason[..end].to_owned();
        Self { code, reason }
    }

    /// The message as it is sent.
    pub(crate) fn to_json(&self) -> String {
        json!({ "close": { "code": self.code.0, "reason": self.reason } }).to_string()
    }

    /// Reads a message from the peer; unknown members are skipped, a missing reason is empty.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(text).ok()?;
        let close = message.get("close")?;
        let code = u16::try_from(close.get("code")?.as_u64()?).ok()?;
        let reason = close.get("reason").and_then(Value::as_str);
        Some(Self::new(CloseCode(code), reason.unwrap_or_default()))
    }

    pub(crate) fn into_event(self) -> Event {
        Event::Closed(self.code, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_cuts_long_reasons_between_characters() {
        let message = CloseMessage::new(CloseCode::REPLACED, &"é".repeat(150));
        assert_eq!(message.reason.len(), 200);
        assert_eq!(CloseMessage::parse(&message.to_json()), Some(message));
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
            assert_eq!(CloseMessage::parse(text), None, "{text}");
        }
    }
}
