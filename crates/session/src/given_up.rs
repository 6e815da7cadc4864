//! Geneses that we have given up after we had signed in their logs.
//!
//! To begin such a log again would be to sign each of its nonces twice. To go on with it is not: so the last logs are kept, for a peer
//! may have turned firm in the same moment in which we gave its genesis up. It cannot follow us any more, and we follow it back.

use std::collections::{BTreeSet, VecDeque};

use roundtable_command_log::{CommandLog, GenesisHash};

/// How many logs are kept. A loose genesis is given up for a lower one each time, so that even a meeting of many rooms takes few.
const MAX_LOGS: usize = 4;

/// A log that was given up.
pub(crate) struct Former {
    pub(crate) log: CommandLog,
    /// Whether it was known to hold all that we had ever signed there.
    pub(crate) certain: bool,
}

#[derive(Default)]
pub(crate) struct GivenUp {
    geneses: BTreeSet<GenesisHash>,
    /// The last, the latest at the end.
    logs: VecDeque<Former>,
}

impl GivenUp {
    /// Those of earlier sessions: their logs are gone.
    pub(crate) fn forsake(&mut self, geneses: impl IntoIterator<Item = GenesisHash>) {
        self.geneses.extend(geneses);
    }

    /// Keeps a log, if anything was signed in it.
    pub(crate) fn keep(&mut self, former: Former) {
        if former.log.own_head().is_none() {
            return;
        }
        self.geneses.insert(former.log.genesis_hash());
        self.logs.push_back(former);
        if self.logs.len() > MAX_LOGS {
            self.logs.pop_front();
        }
    }

    /// Whether a genesis can never be adopted again.
    pub(crate) fn bars(&self, genesis: GenesisHash) -> bool {
        let kept = |former: &Former| former.log.genesis_hash() == genesis;
        self.geneses.contains(&genesis) && !self.logs.iter().any(kept)
    }

    /// The log with this genesis, to go on with it.
    pub(crate) fn take(&mut self, genesis: GenesisHash) -> Option<Former> {
        let of = |former: &Former| former.log.genesis_hash() == genesis;
        let index = self.logs.iter().position(of)?;
        self.geneses.remove(&genesis);
        self.logs.remove(index)
    }
}
