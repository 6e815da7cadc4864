//! Whether the STUN and TURN servers that clients are told of can be used: asked every half minute, shown by
//! `/readyz` and `/metrics`.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use roundtable_core::PeerId;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ServerConfig, TurnConfig, clock,
    ice_uri::{Carrier, IceUri, Service},
    metrics::{Count, Text},
    probe::{self, Exposure, Login, ProbeError},
};

/// The user name in the TURN servers' logs.
const USER: &str = "health-check";

/// Every check there is.
#[derive(Debug)]
pub(crate) struct Health {
    checks: Vec<Arc<Check>>,
    required: bool,
    interval: Duration,
}

/// One server, in one of the ways in which clients come to it.
#[derive(Debug)]
struct Check {
    /// As the operator wrote it.
    text: String,
    uri: IceUri,
    carrier: Carrier,
    login: Source,
    state: Mutex<State>,
    failures: Count,
}

/// Where a check's credentials are from.
#[derive(Debug)]
enum Source {
    None,
    Fixed { username: String, password: String },
    Shared(TurnConfig),
}

/// What a check found last.
#[derive(Debug, PartialEq, Eq)]
enum State {
    NotYetChecked,
    Up,
    /// It works, and lets through what it should not.
    Exposed(Exposure),
    /// And why.
    Down(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYetChecked => f.write_str("not yet checked"),
            Self::Up => f.write_str("up"),
            Self::Exposed(what) => write!(f, "up, but exposed: {what}"),
            Self::Down(why) => write!(f, "down: {why}"),
        }
    }
}

impl Health {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        let mut checks = Vec::new();
        let mut add = |text: &String, login: &dyn Fn() -> Source| {
            // The configuration has been found good.
            let Ok(uri) = text.parse::<IceUri>() else {
                return;
            };
            for carrier in uri.carriers() {
                checks.push(Arc::new(Check {
                    text: text.clone(),
                    uri: uri.clone(),
                    carrier: *carrier,
                    login: login(),
                    state: Mutex::new(State::NotYetChecked),
                    failures: Count::default(),
                }));
            }
        };
        for server in &config.ice_servers {
            let login = || match (&server.username, &server.credential) {
                (Some(username), Some(password)) => Source::Fixed {
                    username: username.clone(),
                    password: password.clone(),
                },
                _ => Source::None,
            };
            server.urls.iter().for_each(|url| add(url, &login));
        }
        if let Some(turn) = &config.turn {
            let login = || Source::Shared(turn.clone());
            turn.uris.iter().for_each(|uri| add(uri, &login));
        }
        Self {
            checks,
            required: config.ice_required,
            interval: config.ice_check_interval,
        }
    }

    /// Checks again and again until the server stops.
    pub(crate) fn start(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        if self.checks.is_empty() {
            return;
        }
        let tls = probe::connector();
        for check in &self.checks {
            let (check, tls, stop) = (Arc::clone(check), tls.clone(), stop.clone());
            let interval = self.interval;
            tasks.spawn(async move {
                stop.run_until_cancelled(check.run(&tls, interval)).await;
            });
        }
    }

    /// Whether clients are to be sent here.
    pub(crate) fn is_ready(&self) -> bool {
        let is_up = |check: &Arc<Check>| matches!(*check.state(), State::Up | State::Exposed(_));
        !self.required || self.checks.iter().all(is_up)
    }

    pub(crate) fn render(&self, text: &mut Text) {
        let value = |name, kind, help, value: &dyn Fn(&Check) -> u64, text: &mut Text| {
            let values = self
                .checks
                .iter()
                .map(|check| (check.labels(), value(check)));
            if !self.checks.is_empty() {
                text.labelled(kind, name, help, values);
            }
        };
        let help = "1 while a STUN or TURN server answers as it should, else 0.";
        let is_up =
            |check: &Check| u64::from(matches!(*check.state(), State::Up | State::Exposed(_)));
        value("ice_server_up", "gauge", help, &is_up, text);
        let help = "1 while a TURN server relays to its own loopback addresses, else 0.";
        let is_exposed = |check: &Check| u64::from(matches!(*check.state(), State::Exposed(_)));
        value("ice_server_exposed", "gauge", help, &is_exposed, text);
        let help = "Checks of a STUN or TURN server that failed.";
        let failures = |check: &Check| check.failures.get();
        value(
            "ice_server_failures_total",
            "counter",
            help,
            &failures,
            text,
        );
    }
}

/// A line for each check.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.checks.iter().try_for_each(|check| {
            writeln!(
                f,
                "{} over {}: {}",
                check.text,
                check.carrier.name(),
                check.state()
            )
        })
    }
}

impl Check {
    async fn run(&self, tls: &TlsConnector, interval: Duration) {
        loop {
            let login = self.login.login();
            let found = probe::probe(&self.uri, self.carrier, login.as_ref(), tls).await;
            self.found(found);
            sleep(interval).await;
        }
    }

    fn found(&self, found: Result<Option<Exposure>, ProbeError>) {
        let now = match found {
            Ok(None) => State::Up,
            Ok(Some(exposure)) => State::Exposed(exposure),
            Err(error) => {
                self.failures.add(1);
                State::Down(error.to_string())
            }
        };
        let mut state = self.state();
        if *state == now {
            return;
        }
        let (server, transport) = (&self.text, self.carrier.name());
        match &now {
            State::Up | State::NotYetChecked => tracing::info!(server, transport, "{now}"),
            State::Exposed(_) => tracing::warn!(server, transport, "{now}"),
            State::Down(_) => tracing::error!(server, transport, "{now}"),
        }
        *state = now;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn labels(&self) -> String {
        let kind = match self.uri.service {
            Service::Stun => "stun",
            Service::Turn => "turn",
        };
        let (server, transport) = (&self.text, self.carrier.name());
        format!("kind=\"{kind}\",server=\"{server}\",transport=\"{transport}\"")
    }
}

impl Source {
    fn login(&self) -> Option<Login> {
        match self {
            Self::None => None,
            Self::Fixed { username, password } => Some(Login {
                username: username.clone(),
                password: password.clone(),
            }),
            Self::Shared(turn) => {
                let user = PeerId::new(USER).ok()?;
                let server = turn.ice_server(clock::wall(), &user);
                Some(Login {
                    username: server.username?,
                    password: server.credential?,
                })
            }
        }
    }
}
