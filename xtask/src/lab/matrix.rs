//! Every kind of router beside every other, with every kind of server: who connects, by which path, how fast.

use std::{path::Path, time::Duration};

use serde::Serialize;

use super::{
    nat::Nat,
    site::{Event, HOMES, Plan, Programs, Servers, Site, SiteError},
};
use crate::clock;

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a hopeless attempt may take until it says so.
const GIVEN_UP: f64 = 10_000.0;

/// How two peers should reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expected {
    /// Without a relay.
    Direct,
    /// Through the TURN server.
    Relay,
    /// Not at all, and they should be told why.
    Error,
}

impl Expected {
    /// How long it may take, in milliseconds.
    const fn limit_ms(self) -> f64 {
        match self {
            Self::Direct => 3_000.0,
            Self::Relay => 5_000.0,
            Self::Error => GIVEN_UP,
        }
    }
}

/// One meeting of two routers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) nats: [Nat; 2],
    pub(super) servers: Servers,
}

impl Case {
    /// All that are tried.
    pub(super) fn all() -> Vec<Self> {
        let servers = [
            Servers::Stun,
            Servers::TurnUdp,
            Servers::TurnTcp,
            Servers::TurnTls,
        ];
        let mut cases = Vec::new();
        for (index, near) in Nat::COMMON.into_iter().enumerate() {
            for far in Nat::COMMON.into_iter().skip(index) {
                cases.extend(servers.map(|servers| Self {
                    nats: [near, far],
                    servers,
                }));
            }
        }
        let case = |near, far, servers| Self {
            nats: [near, far],
            servers,
        };
        cases.extend([
            case(Nat::None, Nat::None, Servers::None),
            case(Nat::NoUdp, Nat::FullCone, Servers::TurnTcp),
            case(Nat::NoUdp, Nat::NoUdp, Servers::TurnTls),
            case(Nat::Symmetric, Nat::Symmetric, Servers::Dead),
        ]);
        cases
    }

    /// As `symmetric/full-cone/stun`.
    pub(super) fn name(self) -> String {
        let [near, far] = self.nats.map(Nat::name);
        format!("{near}/{far}/{}", self.servers.name())
    }

    /// What theory says.
    pub(super) fn expected(self) -> Expected {
        let [near, far] = self.nats;
        match self.servers {
            Servers::None => Expected::Direct,
            Servers::Stun | Servers::TurnUdp if near.punches(far) => Expected::Direct,
            Servers::Stun | Servers::Dead => Expected::Error,
            // TCP shows no outer UDP address, so nobody can be reached at one.
            Servers::TurnUdp | Servers::TurnTcp | Servers::TurnTls => Expected::Relay,
        }
    }
}

/// What became of a case.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) case: String,
    pub(super) expected: Expected,
    /// The kinds of the candidates at both ends, as the later peer saw them.
    pub(super) path: Option<String>,
    /// From the start of the negotiation until the link was open at both ends, or until it was given up.
    pub(super) ms: Option<f64>,
    /// What peers were told where nothing opened.
    pub(super) reason: Option<String>,
    /// It went as it should, in time.
    pub(super) ok: bool,
}

/// Plays a case.
pub(super) fn play(case: Case, programs: &Programs, folder: &Path) -> Result<Row, SiteError> {
    let folder = folder.join(case.name().replace('/', "-"));
    let plan = Plan::new(case.nats, case.servers);
    let mut site = Site::build(programs, plan, folder)?;
    for home in HOMES {
        site.start_peer(home, "webrtc", &["--every-ms", "0"])?;
    }
    let deadline = clock::now() + PATIENCE;
    let (mut open, mut path, mut failed) = ([None; 2], None, None);
    let mut started = None;
    while let Some((name, line)) = site.hear(deadline) {
        let index = usize::from(name == HOMES[1].host);
        started.get_or_insert(line.at_ms);
        match line.event {
            Event::Connected { open_ms, .. } => open[index] = Some(open_ms),
            Event::Link {
                path: Some(seen), ..
            } => path = Some(seen),
            Event::LinkFailed { reason, .. } if failed.is_none() => {
                failed = Some((line.at_ms - started.unwrap_or(line.at_ms), reason));
            }
            _ => {}
        }
        let connected = open.iter().all(Option::is_some) && path.is_some();
        if connected || (failed.is_some() && case.expected() == Expected::Error) {
            break;
        }
    }
    site.leave();
    Ok(row(case, open, path, failed))
}

fn row(
    case: Case,
    open: [Option<f64>; 2],
    path: Option<String>,
    failed: Option<(f64, String)>,
) -> Row {
    let expected = case.expected();
    let both = open[0].zip(open[1]).map(|(one, other)| one.max(other));
    let (ms, reason) = match (both, failed) {
        (Some(ms), _) => (Some(ms), None),
        (None, Some((ms, reason))) => (Some(ms), Some(reason)),
        (None, None) => (None, None),
    };
    let relayed = path.as_deref().map(|path| path.contains("relay"));
    let as_expected = match expected {
        Expected::Direct => both.is_some() && relayed == Some(false),
        Expected::Relay => both.is_some() && relayed == Some(true),
        Expected::Error => both.is_none() && reason.is_some(),
    };
    Row {
        case: case.name(),
        expected,
        path,
        ms,
        reason,
        ok: as_expected && ms.is_some_and(|ms| ms <= expected.limit_ms()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_counts_only_by_the_path_that_it_should_take() {
        let case = Case {
            nats: [Nat::Symmetric, Nat::Symmetric],
            servers: Servers::TurnUdp,
        };
        let open = [Some(300.0), Some(400.0)];
        assert!(row(case, open, Some("relay/relay".into()), None).ok);
        assert!(!row(case, open, Some("host/srflx".into()), None).ok);
        assert!(!row(case, [Some(300.0), None], Some("relay/relay".into()), None).ok);
        let slow = [Some(300.0), Some(5_001.0)];
        assert!(!row(case, slow, Some("relay/relay".into()), None).ok);
    }

    #[test]
    fn who_cannot_connect_must_be_told_why_in_time() {
        let case = Case {
            nats: [Nat::Symmetric, Nat::Symmetric],
            servers: Servers::Dead,
        };
        let told = |ms| Some((ms, "no answer".to_owned()));
        assert!(row(case, [None; 2], None, told(9_000.0)).ok);
        assert!(!row(case, [None; 2], None, told(11_000.0)).ok);
        assert!(!row(case, [None; 2], None, None).ok);
    }
}
