//! The store's figures: commands signed, and made durable before anything may be sent.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods)] // a bench reads the clock

use std::{
    error::Error,
    path::Path,
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;
use roundtable_benches::print_figure;
use roundtable_command_log::{
    Action, CommandLog, Genesis, GenesisParams, Key, Limits, Schema, Strategy,
};
use roundtable_core::{RoomId, WallTime};
use roundtable_log_store::{Identity, Record, RoomLog};

/// How long commands gather before a commit: a session's flush interval.
const BATCH: Duration = Duration::from_millis(11);
/// Commands in a frame.
const TOGETHER: usize = 32;
const RUN: Duration = Duration::from_secs(2);
const SINGLE_COMMITS: usize = 200;
const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

struct Writer {
    log: CommandLog,
    store: RoomLog,
    actions: Vec<Action>,
}

impl Writer {
    fn new(directory: &Path) -> Result<Self, Box<dyn Error>> {
        let identity = Identity::open(directory)?;
        let key: &SigningKey = identity.key();
        let schema = Schema::builder(1, 0).key_type(1, "note", Strategy::LastWriteWins);
        let schema = schema.build()?;
        let limits = Limits {
            burst: u32::MAX,
            per_second: u32::MAX,
        };
        let params = GenesisParams {
            limits,
            ..GenesisParams::new([1; 32], NOW, schema.hash())
        };
        let genesis = Genesis::create(params, key)?;
        let log = CommandLog::new(genesis.clone(), schema.clone(), Some(key.clone()))?;
        let (store, _) = identity.room(&RoomId::new("bench")?)?;
        let genesis = genesis.into();
        store.commit(&[Record::Genesis { genesis, schema }])?;
        // 32 bytes of payload each.
        let action = |n: usize| Action::put(Key::new(1, format!("key{n:05}")), vec![b'x'; 24]);
        Ok(Self {
            log,
            store,
            actions: (0..TOGETHER).map(action).collect(),
        })
    }

    fn frame(&mut self) -> Result<Record, Box<dyn Error>> {
        let frame = self.log.append(NOW, &self.actions)?;
        let genesis = self.log.genesis_hash();
        Ok(Record::Frame { genesis, frame })
    }
}

/// Commands a second that are signed and committed, what gathers in one interval at a time.
fn throughput(writer: &mut Writer) -> Result<f64, Box<dyn Error>> {
    let started = Instant::now();
    let mut commands = 0;
    while started.elapsed() < RUN {
        let mut records = Vec::new();
        let batch = Instant::now();
        while batch.elapsed() < BATCH {
            records.push(writer.frame()?);
        }
        writer.store.commit(&records)?;
        commands += records.len() * TOGETHER;
    }
    #[allow(clippy::cast_precision_loss)] // a figure for people
    let commands = commands as f64;
    Ok(commands / started.elapsed().as_secs_f64())
}

/// The median time of a commit of one frame, in milliseconds: what an own command waits for.
fn commit_ms(writer: &mut Writer) -> Result<f64, Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..SINGLE_COMMITS {
        let record = writer.frame()?;
        let started = Instant::now();
        writer.store.commit(&[record])?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(times[SINGLE_COMMITS / 2].as_secs_f64() * 1000.0)
}

fn main() -> Result<(), Box<dyn Error>> {
    // Beside this program: a directory for temporary files may be no disk at all.
    let program = std::env::current_exe()?;
    let directory = tempfile::tempdir_in(program.parent().unwrap_or(Path::new(".")))?;
    let mut writer = Writer::new(directory.path())?;
    print_figure("store_append", throughput(&mut writer)?, "commands/s");
    print_figure("store_commit_ms", commit_ms(&mut writer)?, "ms");
    Ok(())
}
