//! Logs that make checkpoints together.

use roundtable_command_log::{
    Action, Ballot, Checkpoint, CheckpointName, CommandLog, Genesis, Role, SharedFrame, Snapshot,
};

use super::*;

pub const ALICE: u8 = 0;
pub const BOB: u8 = 1;
pub const CAROL: u8 = 2;
pub const DAVE: u8 = 3;

/// Logs that tell each other everything, and all that was ever signed, in some order that authors' logs allow.
pub struct Room {
    pub genesis: Genesis,
    pub logs: Vec<CommandLog>,
    pub frames: Vec<SharedFrame>,
}

impl Room {
    /// Alice, who creates the room, and those whom she makes Editors or Admins.
    pub fn new(others: &[(u8, Role)]) -> Self {
        let genesis = genesis();
        let seeds = [ALICE]
            .into_iter()
            .chain(others.iter().map(|(seed, _)| *seed));
        let logs = seeds.map(|seed| log(&genesis, seed)).collect();
        let mut room = Self {
            genesis,
            logs,
            frames: Vec::new(),
        };
        for (seed, role) in others {
            room.write(0, &[set_role(*seed, *role)]);
        }
        room
    }

    pub fn write(&mut self, who: usize, actions: &[Action]) {
        let frame = self.logs[who].append(at(0), actions).unwrap();
        self.tell(&frame, |_| true);
    }

    /// Tells those logs of a frame.
    pub fn tell(&mut self, frame: &SharedFrame, whom: impl Fn(usize) -> bool) {
        for (n, log) in self.logs.iter_mut().enumerate() {
            if whom(n) {
                give(log, frame);
                log.settle(at(0));
            }
        }
        self.frames.push(frame.clone());
    }

    pub fn propose(&mut self, who: usize) -> Ballot {
        let cut = self.logs[who].lamport();
        let previous = self.logs[who].checkpoint().map(|stable| stable.name);
        let proposal = self.logs[who].checkpoint_command(cut).unwrap();
        let Action::Propose { checkpoint } = &proposal else {
            panic!("{proposal:?}");
        };
        let checkpoint = Checkpoint::decode(checkpoint).unwrap();
        let ballot = Ballot {
            checkpoint: checkpoint.name(&self.genesis.hash()),
            previous: previous.unwrap_or(CheckpointName::NONE),
        };
        self.write(who, &[proposal]);
        ballot
    }

    /// Lets those who are there say what is due until nothing is.
    pub fn settle(&mut self, present: &[usize]) {
        while let Some((who, due)) = present
            .iter()
            .find_map(|who| Some((*who, self.logs[*who].due(at(0))?)))
        {
            self.write(who, &[due]);
        }
    }

    pub fn checkpoint(&mut self, who: usize) {
        self.propose(who);
        let everyone: Vec<_> = (0..self.logs.len()).collect();
        self.settle(&everyone);
    }

    pub fn numbers(&self) -> Vec<u64> {
        let stable = self.logs.iter().map(CommandLog::checkpoint);
        stable
            .map(|stable| stable.map_or(0, |stable| stable.number))
            .collect()
    }

    /// A log that joins by a snapshot and is told what this log has beyond.
    pub fn joiner(&self, by: usize) -> CommandLog {
        let mut joiner = reader(&self.genesis);
        if let Some(snapshot) = self.logs[by].snapshot(0) {
            let snapshot = Snapshot::decode(snapshot.encode()).unwrap();
            assert_eq!(joiner.install(at(0), &snapshot), Ok(true));
        }
        joiner.restore(
            at(0),
            self.logs[by].kept().map(|frame| frame.bytes().clone()),
        );
        joiner.settle(at(0));
        joiner
    }

    /// A log that is told everything from the genesis on.
    pub fn replayer(&self) -> CommandLog {
        let mut replayer = reader(&self.genesis);
        for frame in &self.frames {
            let _ = replayer.receive(at(0), frame.bytes().clone());
            replayer.settle(at(0));
        }
        replayer
    }
}

/// What two logs must agree on: what there is, and what may come next.
pub fn essence(log: &CommandLog) -> impl PartialEq + std::fmt::Debug + use<> {
    let roles: Vec<_> = log.roles().collect();
    (
        log.checkpoint(),
        log.heads(),
        log.state_hash(),
        roles,
        log.forks(),
    )
}
