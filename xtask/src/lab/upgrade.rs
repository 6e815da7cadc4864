//! A link that had to take a relay, when the routers let the two peers through: how soon they meet directly, and
//! whether anything was lost or came twice.

use std::{path::Path, time::Duration};

use serde::Serialize;

use super::{
    nat::Nat,
    outages::{Ear, Tally, Watch},
    site::{Plan, Programs, Servers, SiteError},
};
use crate::clock;

/// How long two peers have for finding each other.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long they may go on over the relay: a better way is looked for after 10 s, by one of them after 15.
const LIMIT: Duration = Duration::from_secs(30);
/// How long they talk afterwards: the relayed link goes 5 s after the direct one has come.
const CALM: Duration = Duration::from_secs(8);

/// What was seen.
#[derive(Debug, Serialize)]
pub(super) struct Visit {
    /// Over what the link ran at first, as the first peer saw it.
    pub(super) before: Option<String>,
    /// And in the end.
    pub(super) after: Option<String>,
    /// From the change of the routers until both peers had a direct link, in milliseconds.
    pub(super) found_ms: Option<f64>,
    pub(super) commands: Tally,
    pub(super) messages: Tally,
}

impl Visit {
    /// Whether they came to meet directly, and nothing was lost or repeated by it.
    pub(super) fn is_well(&self) -> bool {
        let whole = |tally: &Tally| tally.sent > 0 && tally.lost + tally.repeated == 0;
        let relayed = |path: &Option<String>| path.as_deref().map(is_relayed);
        relayed(&self.before) == Some(true)
            && relayed(&self.after) == Some(false)
            && self.found_ms.is_some()
            && whole(&self.commands)
            && whole(&self.messages)
    }
}

fn is_relayed(path: &str) -> bool {
    path.contains("relay")
}

/// Lets two peers meet through a relay, then takes the routers that made them out of the way.
pub(super) fn visit(programs: &Programs, folder: &Path) -> Result<Visit, SiteError> {
    let plan = Plan::new([Nat::Symmetric; 2], Servers::TurnUdp);
    let mut watch = Watch::start("webrtc", plan, programs, folder)?;
    let all = |relayed: bool| {
        move |ears: &[Ear; 2]| {
            let paths = ears.iter().filter_map(|ear| ear.path.as_deref());
            paths.filter(|path| is_relayed(path) == relayed).count() == 2
        }
    };
    watch.listen(PATIENCE, all(true));
    let before = watch.path();
    watch.site.change_routers(Nat::FullCone)?;
    let since = clock::unix_ms();
    let found = watch.listen(LIMIT, all(false));
    let found_ms = found.then(|| clock::unix_ms() - since);
    watch.listen(CALM, |_| false);
    let after = watch.path();
    let (commands, messages) = watch.finish();
    Ok(Visit {
        before,
        after,
        found_ms,
        commands,
        messages,
    })
}
