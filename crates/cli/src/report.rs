//! What `roundtable join` says on stdout: one JSON object a line, or words for people.

use std::io::Write;

use serde_json::{Value, json};

use crate::clock::unix_us;

/// Writes events to stdout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    pub(crate) json: bool,
}

impl Report {
    /// Writes one event. `fields` is a JSON object; `words` is the line for people, `None` for
    /// what only machines care about.
    pub(crate) fn event(self, event: &str, fields: Value, words: Option<String>) {
        let line = if self.json {
            let mut object = json!({ "event": event, "at_ms": unix_us() / 1000 });
            if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
                object.extend(fields);
            }
            object.to_string()
        } else if let Some(words) = words {
            words
        } else {
            return;
        };
        // A reader that has gone away is no reason to stop.
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }
}
