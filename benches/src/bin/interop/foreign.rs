//! The process of a foreign peer.

use std::process::Stdio;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{Outcome, PATIENCE};

/// See the module.
pub(crate) struct Foreign {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Foreign {
    pub(crate) fn start(program: &[String]) -> Outcome<Self> {
        let mut child = Command::new(&program[0])
            .args(&program[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", program[0]))?;
        let input = child.stdin.take().ok_or("no stdin")?;
        let output = child.stdout.take().ok_or("no stdout")?;
        Ok(Self {
            child,
            input,
            lines: BufReader::new(output).lines(),
        })
    }

    pub(crate) async fn tell(&mut self, message: &Value) -> Outcome<()> {
        let line = format!("{message}\n");
        Ok(self.input.write_all(line.as_bytes()).await?)
    }

    /// Waits for the message `key`; whatever else it says is passed over.
    pub(crate) async fn hear_value(&mut self, key: &str) -> Outcome<Value> {
        let wait = async {
            while let Some(line) = self.lines.next_line().await? {
                let mut message: Value = serde_json::from_str(&line)?;
                if let Some(value) = message.get_mut(key) {
                    return Ok(value.take());
                }
            }
            Err("the foreign peer has ended".into())
        };
        let heard = timeout(PATIENCE, wait).await;
        heard.map_err(|_| format!("the foreign peer said no {key}"))?
    }

    /// The same as text.
    pub(crate) async fn hear(&mut self, key: &str) -> Outcome<String> {
        let value = self.hear_value(key).await?;
        let text = value.as_str().map(str::to_owned);
        Ok(text.unwrap_or_else(|| value.to_string()))
    }

    /// It ends when it is told nothing more.
    pub(crate) async fn stop(self) {
        let Self {
            mut child, input, ..
        } = self;
        drop(input);
        // One that does not end is killed when it is dropped.
        let _ = timeout(PATIENCE, child.wait()).await;
    }
}
