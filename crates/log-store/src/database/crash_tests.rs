//! Crashes at every write: what the disk may hold then, and what comes of it.

use std::sync::{Arc, Mutex};

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use redb::StorageBackend;
use roundtable_command_log::{
    Action, CommandLog, GenesisParams, Key, Limits, SharedFrame, Strategy,
};
use roundtable_core::WallTime;

use super::*;

const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);
/// Batches that the tests commit.
const BATCHES: usize = 12;

#[derive(Debug, Clone)]
enum Operation {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

impl Operation {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let start = usize::try_from(*offset).unwrap();
                let end = start + data.len();
                image.resize(image.len().max(end), 0);
                image[start..end].copy_from_slice(data);
            }
            Self::SetLen(len) => image.resize(usize::try_from(*len).unwrap(), 0),
            Self::Sync => {}
        }
    }
}

/// A disk that remembers every operation, and can be looked at as of any moment.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<(Vec<u8>, Vec<Operation>)>>);

impl Disk {
    fn with(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new((image, Vec::new()))))
    }

    fn operations(&self) -> Vec<Operation> {
        self.0.lock().unwrap().1.clone()
    }

    fn record(&self, operation: Operation) {
        let mut disk = self.0.lock().unwrap();
        operation.apply(&mut disk.0);
        disk.1.push(operation);
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.lock().unwrap().0.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let disk = self.0.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let found = disk.0.get(start..start + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.record(Operation::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.record(Operation::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.record(Operation::Write(offset, data.to_vec()));
        Ok(())
    }
}

fn open(disk: Disk) -> Result<Database, IdentityError> {
    let open = || builder().create_with_backend(disk);
    Database::sound(Path::new("disk"), open).map(|(store, _)| store)
}

fn below(rng: &mut ChaCha20Rng, end: usize) -> usize {
    usize::try_from(rng.next_u64() % end as u64).unwrap()
}

/// A life of a store: the disk as it was made, what was done to it since, and after how many
/// operations each batch was acknowledged.
struct Life {
    log: CommandLog,
    made: Vec<u8>,
    operations: Vec<Operation>,
    batches: Vec<(usize, Vec<SharedFrame>)>,
}

fn room() -> RoomId {
    RoomId::new("demo").unwrap()
}

fn schema() -> Schema {
    let schema = Schema::builder(1, 0).key_type(1, "note", Strategy::LastWriteWins);
    schema.build().unwrap()
}

fn live() -> Life {
    let key = SigningKey::from_bytes(&[1; 32]);
    let params = GenesisParams {
        limits: Limits {
            burst: 1_000_000,
            per_second: 1_000_000,
        },
        ..GenesisParams::new([1; 32], NOW, schema().hash())
    };
    let genesis = Genesis::create(params, &key).unwrap();
    let mut log = CommandLog::new(genesis.clone(), schema(), Some(key.clone())).unwrap();
    let disk = Disk::default();
    let database = builder().create_with_backend(disk.clone()).unwrap();
    initialise(&database, &key).unwrap();
    drop(database);
    let made = disk.0.lock().unwrap().0.clone();

    let disk = Disk::with(made.clone());
    let store = open(disk.clone()).unwrap();
    let mut batches = Vec::new();
    for batch in 0..BATCHES {
        let mut records = Vec::new();
        let mut frames = Vec::new();
        if batch == 0 {
            records.push(Record::Genesis {
                genesis: genesis.clone().into(),
                schema: schema(),
            });
        }
        for number in 0..batch % 4 {
            // Some frames are larger than a page of the database.
            let text = vec![b'x'; 10 + 3000 * number];
            let action = Action::put(Key::new(1, "note"), text);
            let frame = log.append(NOW, &[action]).unwrap();
            frames.push(frame.clone());
            let genesis = genesis.hash();
            records.push(Record::Frame { genesis, frame });
        }
        store.commit(&room(), &records).unwrap();
        batches.push((disk.operations().len(), frames));
    }
    drop(store);
    let operations = disk.operations();
    Life {
        log,
        made,
        operations,
        batches,
    }
}

impl Life {
    /// Opens what a crash after `done` operations left on the disk, and holds it against what had
    /// been acknowledged by then.
    fn check(&self, image: Vec<u8>, done: usize) {
        let store = open(Disk::with(image)).unwrap_or_else(|error| panic!("{done}: {error}"));
        let contents = store.load(&room()).unwrap();
        let loaded: Vec<_> = contents.clone().into_frames().collect();
        let acknowledged = self.batches.iter().filter(|(at, _)| *at <= done).count();
        // Each batch is there as a whole or not at all, and none before it is missing.
        let kept = (acknowledged..=self.batches.len()).find(|kept| {
            let frames = self.batches[..*kept].iter().flat_map(|(_, frames)| frames);
            let frames: Vec<_> = frames.map(|frame| frame.bytes().clone()).collect();
            frames == loaded
        });
        let kept = kept.unwrap_or_else(|| panic!("{done}: {} frames", loaded.len()));
        // At most one commit was under way; batches without frames cannot be told apart.
        let under_way = self.batches[acknowledged..kept].iter();
        assert!(under_way.filter(|(_, frames)| !frames.is_empty()).count() <= 1);
        let Some(genesis) = contents.genesis else {
            assert_eq!(acknowledged, 0);
            return;
        };
        let mut log = CommandLog::new(genesis, contents.schema.unwrap(), None).unwrap();
        let count = loaded.len();
        assert_eq!(log.restore(NOW, loaded), count, "all of it verifies");
    }
}

#[test]
fn a_crash_at_any_write_loses_nothing_acknowledged() {
    let life = live();
    let mut image = life.made.clone();
    for (done, operation) in life.operations.iter().enumerate() {
        life.check(image.clone(), done);
        operation.apply(&mut image);
    }
    life.check(image, life.operations.len());
}

/// Between two syncs a disk writes in any order, and the last sector it writes may be torn.
#[test]
fn a_crash_that_tears_and_reorders_unsynced_writes_loses_nothing_acknowledged() {
    let life = live();
    let mut rng = ChaCha20Rng::from_seed([7; 32]);
    for _ in 0..400 {
        let done = below(&mut rng, life.operations.len());
        let synced = life.operations[..done]
            .iter()
            .rposition(|operation| matches!(operation, Operation::Sync))
            .map_or(0, |at| at + 1);
        let mut image = life.made.clone();
        for operation in &life.operations[..synced] {
            operation.apply(&mut image);
        }
        for operation in &life.operations[synced..done] {
            match operation {
                Operation::Write(offset, data) if below(&mut rng, 4) == 0 => {
                    let part = below(&mut rng, data.len() + 1);
                    Operation::Write(*offset, data[..part].to_vec()).apply(&mut image);
                }
                Operation::Write(..) if below(&mut rng, 2) == 0 => {}
                operation => operation.apply(&mut image),
            }
        }
        life.check(image, done);
    }
}

/// One flipped bit anywhere is noticed when the file is opened, unless nothing was written there.
#[test]
fn a_damaged_file_never_yields_another_log() {
    let life = live();
    let mut whole = life.made.clone();
    for operation in &life.operations {
        operation.apply(&mut whole);
    }
    let frames: Vec<_> = life
        .log
        .frames()
        .map(|frame| frame.bytes().clone())
        .collect();
    let mut rng = ChaCha20Rng::from_seed([9; 32]);
    let mut refused = 0;
    for _ in 0..1000 {
        let mut image = whole.clone();
        let at = below(&mut rng, image.len());
        image[at] ^= 1 << below(&mut rng, 8);
        match open(Disk::with(image)) {
            Ok(store) => assert!(
                store
                    .load(&room())
                    .unwrap()
                    .into_frames()
                    .eq(frames.clone())
            ),
            Err(IdentityError::Damaged(_) | IdentityError::Layout(_)) => refused += 1,
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(refused > 100, "{refused}");
}
