//! What an outage does to two peers who are talking: how soon they hear each other again, and whether anything
//! was lost or came twice.

use std::{collections::BTreeMap, path::Path, thread, time::Duration};

use serde::Serialize;

use super::{
    nat::Nat,
    site::{Event, HOMES, Line, Plan, Programs, Servers, Site, SiteError, io_error},
};
use crate::clock;

/// How long two peers have for finding each other, and again after an outage.
const PATIENCE: Duration = Duration::from_secs(75);
/// How long they talk between two outages.
const CALM: Duration = Duration::from_secs(2);
/// After the last number: what is late may still come, for as long as a peer listens.
const LAST_WORDS: Duration = Duration::from_secs(4);

/// What happens to the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outage {
    /// Nothing passes for so many seconds.
    Cut(u64),
    /// For so many seconds, nothing leaves one home, while everything still comes in.
    OneWay(u64),
    /// A host gets another address.
    Moved,
    /// The signaling server is killed while the peers negotiate, and is back after two seconds.
    ServerKilled,
}

impl Outage {
    /// All that are tried, the short ones first.
    pub(super) const ALL: [Self; 7] = [
        Self::ServerKilled,
        Self::Cut(1),
        Self::Cut(3),
        Self::Cut(10),
        Self::Cut(30),
        Self::OneWay(5),
        Self::Moved,
    ];

    /// As the page calls it.
    pub(super) fn name(self) -> String {
        match self {
            Self::Cut(seconds) => format!("cut-{seconds}s"),
            Self::OneWay(seconds) => format!("one-way-{seconds}s"),
            Self::Moved => "address-change".into(),
            Self::ServerKilled => "server-killed".into(),
        }
    }
}

/// What was seen in one visit to a site, in which every outage happened once.
#[derive(Debug, Default, Serialize)]
pub(super) struct Visit {
    /// From the end of the outage until both heard each other, in milliseconds; `None` if they did not within
    /// 75 seconds.
    pub(super) recovered_ms: BTreeMap<String, Option<f64>>,
    pub(super) commands: Tally,
    pub(super) messages: Tally,
}

/// How a stream of numbers arrived.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) lost: u64,
    pub(super) repeated: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.repeated += other.repeated;
    }

    /// What became of the numbers from 0 to `sent`.
    fn of(sent: u64, heard: &[u64]) -> Self {
        let mut times = BTreeMap::<u64, u64>::new();
        for number in heard.iter().filter(|number| **number < sent) {
            *times.entry(*number).or_default() += 1;
        }
        let heard = u64::try_from(times.len()).unwrap_or(u64::MAX);
        Self {
            sent,
            lost: sent - heard,
            repeated: times.values().map(|times| times - 1).sum(),
        }
    }
}

/// What one peer has heard of the other, and how much it said itself.
#[derive(Debug, Default)]
pub(super) struct Ear {
    joined: bool,
    commands: Vec<u64>,
    messages: Vec<u64>,
    /// When the last of either came, in milliseconds since the Unix epoch.
    last_ms: f64,
    counted: Option<u64>,
    /// Over what a link ran when it was last looked at.
    pub(super) path: Option<String>,
}

impl Ear {
    fn hear(&mut self, line: &Line) {
        match line.event {
            Event::Link { ref path } => self.path.clone_from(path),
            Event::Joined => self.joined = true,
            Event::Command { number } => self.commands.push(number),
            Event::Message { number } => self.messages.push(number),
            Event::Counted { numbers } => self.counted = Some(numbers),
            _ => return,
        }
        if matches!(line.event, Event::Command { .. } | Event::Message { .. }) {
            self.last_ms = line.at_ms;
        }
    }
}

/// A site under observation.
pub(super) struct Watch {
    pub(super) site: Site,
    ears: [Ear; 2],
}

impl Watch {
    /// Builds a site, in which two peers count aloud to each other.
    pub(super) fn start(
        transport: &str,
        plan: Plan,
        programs: &Programs,
        folder: &Path,
    ) -> Result<Self, SiteError> {
        let mut watch = Self {
            site: Site::build(programs, plan, folder.to_owned())?,
            ears: Default::default(),
        };
        for (index, home) in HOMES.into_iter().enumerate() {
            watch
                .site
                .start_peer(home, transport, &["--every-ms", "50"])?;
            // The first creates the room; from when the second has joined, they negotiate.
            watch.listen(PATIENCE, |ears| ears[index].joined);
        }
        Ok(watch)
    }

    /// Lets both speak out; what became of their commands and of their messages.
    pub(super) fn finish(mut self) -> (Tally, Tally) {
        self.site.interrupt();
        self.listen(LAST_WORDS, |_| false);
        let (mut commands, mut messages) = (Tally::default(), Tally::default());
        let [near, far] = &self.ears;
        for (speaker, listener) in [(near, far), (far, near)] {
            let sent = speaker.counted.unwrap_or(0);
            commands.add(Tally::of(sent, &listener.commands));
            messages.add(Tally::of(sent, &listener.messages));
        }
        self.site.leave();
        (commands, messages)
    }

    /// Listens until `done`, or for so long; says whether it is done.
    pub(super) fn listen(&mut self, patience: Duration, done: impl Fn(&[Ear; 2]) -> bool) -> bool {
        let deadline = clock::now() + patience;
        while !done(&self.ears) {
            let Some((name, line)) = self.site.hear(deadline) else {
                return false;
            };
            self.ears[usize::from(name == HOMES[1].host)].hear(&line);
        }
        true
    }

    /// Over what the first peer's link ran when it was last looked at.
    pub(super) fn path(&self) -> Option<String> {
        self.ears[0].path.clone()
    }

    /// How long after `since` both have heard each other.
    fn recovery(&mut self, since: f64) -> Option<f64> {
        for ear in &mut self.ears {
            ear.last_ms = 0.0;
        }
        // The first word that comes after it, at each end.
        let mut first = [None; 2];
        let deadline = clock::now() + PATIENCE;
        while first.iter().any(Option::is_none) {
            let (name, line) = self.site.hear(deadline)?;
            let index = usize::from(name == HOMES[1].host);
            self.ears[index].hear(&line);
            if self.ears[index].last_ms > since && first[index].is_none() {
                first[index] = Some(self.ears[index].last_ms - since);
            }
        }
        first.into_iter().flatten().reduce(f64::max)
    }

    fn happen(&mut self, outage: Outage) -> Result<f64, SiteError> {
        let cut = |watch: &mut Self, order: &str, seconds: u64| {
            watch.order(order)?;
            watch.listen(Duration::from_secs(seconds), |_| false);
            watch.order("mend")
        };
        match outage {
            Outage::Cut(seconds) => cut(self, "cut", seconds)?,
            Outage::OneWay(seconds) => cut(self, "cut near", seconds)?,
            Outage::Moved => self.site.move_host(HOMES[0], 2, 3)?,
            Outage::ServerKilled => {
                self.site.kill_server();
                thread::sleep(Duration::from_secs(2));
                self.site.start_server()?;
            }
        }
        Ok(clock::unix_ms())
    }

    fn order(&mut self, order: &str) -> Result<(), SiteError> {
        let cable = &mut self.site.cables[0];
        cable.tell(order).map_err(io_error("the cable"))
    }
}

/// Lets every outage happen to two peers who are talking over `transport`.
pub(super) fn visit(
    transport: &str,
    programs: &Programs,
    folder: &Path,
) -> Result<Visit, SiteError> {
    let plan = Plan::new([Nat::None; 2], Servers::None);
    let mut watch = Watch::start(transport, plan, programs, folder)?;
    let mut visit = Visit::default();
    for outage in Outage::ALL {
        let end = watch.happen(outage)?;
        let recovered = watch.recovery(end);
        visit.recovered_ms.insert(outage.name(), recovered);
        watch.listen(CALM, |_| false);
    }
    (visit.commands, visit.messages) = watch.finish();
    Ok(visit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_came_is_lost_and_what_came_twice_is_repeated() {
        let tally = Tally::of(5, &[0, 1, 1, 3, 3, 3, 9]);
        let expected = Tally {
            sent: 5,
            lost: 2,
            repeated: 3,
        };
        assert_eq!(tally, expected, "9 was said after the count");
    }
}
