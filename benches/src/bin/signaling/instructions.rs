//! What a relayed message costs in instructions and system calls, as valgrind counts them: the same on every machine, whatever
//! else runs there.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    clock, crowd,
    dialect::{self, Dialect},
    server::Server,
};

/// Two runs that differ in this alone are subtracted, so that starting, joining and ending do not count.
const MESSAGES: [usize; 2] = [500, 2500];
/// Clients that talk, one after the other.
const CLIENTS: usize = 100;

/// What one message takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Instructions outside the kernel.
    pub(crate) instructions: f64,
    pub(crate) system_calls: f64,
}

/// Counts; `None`, after saying so, where there is no valgrind.
pub(crate) async fn of_a_message() -> io::Result<Option<Cost>> {
    let asked = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !asked.is_ok_and(|status| status.success()) {
        eprintln!("SKIP: instructions are not counted: no valgrind (apt-get install valgrind)");
        return Ok(None);
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("counts");
    let [few, many] = [
        total(MESSAGES[0], &file).await?,
        total(MESSAGES[1], &file).await?,
    ];
    let messages = crowd::to_f64(MESSAGES[1] - MESSAGES[0]);
    Ok(Some(Cost {
        instructions: (many.instructions - few.instructions) / messages,
        system_calls: (many.system_calls - few.system_calls) / messages,
    }))
}

/// What a server takes, from start to end, that relays `messages`, each once the one before it has arrived: so no two of them share
/// a wake-up, and nothing depends on how fast anybody is.
async fn total(messages: usize, file: &Path) -> io::Result<Cost> {
    let server = Server::counted(file)?;
    let mut clients = crowd::gather(std::slice::from_ref(&server), None, CLIENTS).await?;
    for number in 0..messages {
        let from = number % CLIENTS;
        let offer = Dialect::Roundtable.offer(from, number, clock::micros());
        clients[from].send(&offer).await?;
        let receiver = &mut clients[dialect::next_of(from)];
        while receiver.next(dialect::sent_at).await?.is_none() {}
    }
    server.end()?;
    counted(&fs::read_to_string(file)?)
}

/// The sums that callgrind has written: `totals: INSTRUCTIONS CALLS MICROSECONDS`.
fn counted(text: &str) -> io::Result<Cost> {
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let mut numbers = totals
        .unwrap_or_default()
        .split_whitespace()
        .map_while(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(instructions), Some(system_calls)) => Ok(Cost {
            instructions,
            system_calls,
        }),
        _ => Err(io::Error::other("valgrind has written no sums")),
    }
}
