//! `cargo xtask lab`: peers behind routers, TURN servers and outages, each in a network of its own.
//!
//! Namespaces stand for hosts, `nft` for the routers' address translation, and the `cable` example of
//! `roundtable-netem` for distance, loss and outages. In them run the real signaling server, coturn, and the `pulse`
//! example of the facade. Needs root, and touches nothing beyond the namespaces it makes.

mod matrix;
mod nat;
mod net;
mod outages;
mod site;
mod upgrade;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::ExitCode,
    sync::Mutex,
    thread,
};

use crate::{
    page, setup,
    step::{self, Outcome},
    workspace::{self, Workspace},
};

use matrix::{Case, Row};
use outages::{Outage, Tally, Visit};
use site::{Programs, SiteError};

/// Where the tables go.
const PAGE: &str = "docs/benchmarks/lab.md";

/// What `lab` may be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// What is tried.
    #[arg(value_enum)]
    subject: Subject,
    /// Only cases whose name has this in it, such as `symmetric/` or `turn-tls`; nothing is written then.
    #[arg(long)]
    only: Option<String>,
    /// How often: each case of the matrix, or all outages.
    #[arg(long)]
    runs: Option<usize>,
    /// How many networks at a time.
    #[arg(long, default_value_t = 4)]
    sites: usize,
    /// Print JSON objects rather than a table.
    #[arg(long)]
    json: bool,
    /// Write no page.
    #[arg(long)]
    no_write: bool,
    /// Fail where the lab cannot run.
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    /// Every kind of router beside every other, with every kind of server.
    Matrix,
    /// Outages, one-way loss, a change of address, a signaling server that dies.
    Outages,
    /// Peers that meet through a relay, until their routers let them through.
    Upgrade,
}

/// Runs the lab.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> ExitCode {
    let outcome = match missing() {
        Some(why) => Outcome::Skipped(why),
        None => play(workspace, args),
    };
    match outcome {
        Outcome::Ok => ExitCode::SUCCESS,
        Outcome::Skipped(why) => {
            eprintln!("SKIP: {why}");
            ExitCode::from(u8::from(args.strict))
        }
        Outcome::Failed(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Why the lab cannot run here.
fn missing() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("network namespaces are those of Linux".into());
    }
    if workspace::first_line("id", &["-u"]).as_deref() != Some("0") {
        return Some(
            "making network namespaces needs root: run `sudo -E cargo xtask lab …`".into(),
        );
    }
    setup::advice(setup::Purpose::Lab)
}

fn play(workspace: &Workspace, args: &Args) -> Outcome {
    let programs = match build(workspace) {
        Ok(programs) => programs,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let folder = workspace.target_dir().join("lab");
    let report = match args.subject {
        Subject::Matrix => play_matrix(args, &programs, &folder),
        Subject::Outages => play_outages(args, &programs, &folder),
        Subject::Upgrade => play_upgrades(args, &programs, &folder),
    };
    let (table, failures) = match report {
        Ok(report) => report,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    if !args.json {
        println!("{table}");
    }
    if !args.no_write && args.only.is_none() {
        let name = match args.subject {
            Subject::Matrix => "matrix",
            Subject::Outages => "outages",
            Subject::Upgrade => "upgrade",
        };
        let path = workspace.root().join(PAGE);
        let page = fs::read_to_string(&path).unwrap_or_default();
        if let Err(error) = page::write(&path, &page, name, &table) {
            return Outcome::Failed(error.to_string());
        }
    }
    match failures {
        0 => Outcome::Ok,
        failures => Outcome::Failed(format!(
            "{failures} did not go as they should; logs are in {}",
            folder.display()
        )),
    }
}

/// Builds what runs in the lab, in release.
fn build(workspace: &Workspace) -> Result<Programs, workspace::RunError> {
    const PARTS: [&[&str]; 3] = [
        &["--package", "roundtable-cli"],
        &["--package", "roundtable", "--example", "pulse"],
        &["--package", "roundtable-netem", "--example", "cable"],
    ];
    for part in PARTS {
        let mut command = workspace.cargo();
        command.args(["build", "--quiet", "--release"]).args(part);
        step::run_shown(&mut command)?;
    }
    let release = workspace.target_dir().join("release");
    Ok(Programs {
        roundtable: release.join("roundtable"),
        pulse: release.join("examples/pulse"),
        cable: release.join("examples/cable"),
    })
}

/// A table, and how many of its rows are not as they should be.
type Report = (String, usize);

fn play_matrix(args: &Args, programs: &Programs, folder: &Path) -> Result<Report, SiteError> {
    let wanted = |case: &Case| {
        let only = args.only.as_deref();
        only.is_none_or(|part| case.name().contains(part))
    };
    let cases = Case::all().into_iter().filter(wanted);
    let runs = args.runs.unwrap_or(1);
    let cases: Vec<_> = cases
        .flat_map(|case| (0..runs).map(move |_| case))
        .collect();
    let rows = at_once(args.sites, cases, |number, case| {
        let row = matrix::play(case, programs, &folder.join(format!("matrix-{number}")));
        if let Ok(row) = &row {
            told(args, row, row.ok, &row.case);
        }
        row
    })?;
    let failures = rows.iter().filter(|row| !row.ok).count();
    Ok((matrix_table(&rows), failures))
}

/// Says on the way how things stand.
fn told(args: &Args, what: &impl serde::Serialize, ok: bool, name: &str) {
    if args.json {
        println!("{}", serde_json::json!(what));
    }
    eprintln!("    {} {name}", if ok { "ok    " } else { "FAILED" });
}

fn matrix_table(rows: &[Row]) -> String {
    let mut cases = BTreeMap::<&str, Vec<&Row>>::new();
    for row in rows {
        cases.entry(&row.case).or_default().push(row);
    }
    let lines = cases.into_iter().map(|(case, rows)| {
        let times = Spread::of(rows.iter().filter_map(|row| row.ms));
        let paths: BTreeSet<_> = rows
            .iter()
            .filter_map(|row| row.path.as_deref().or(row.reason.as_deref()))
            .collect();
        let paths: Vec<_> = paths.into_iter().collect();
        let ok = rows.iter().all(|row| row.ok);
        let expected = serde_json::json!(rows[0].expected);
        format!(
            "| {case} | {} | {} | {} | {} | {} |\n",
            expected.as_str().unwrap_or_default(),
            paths.join("; "),
            times.p50,
            times.max,
            if ok { "yes" } else { "no" }
        )
    });
    let head = "| routers and server | should be | was | median | slowest | ok |\n|---|---|---|---|---|---|\n";
    format!("{head}{}", lines.collect::<String>())
}

fn play_outages(args: &Args, programs: &Programs, folder: &Path) -> Result<Report, SiteError> {
    let wanted = |transport: &&str| {
        let only = args.only.as_deref();
        only.is_none_or(|part| transport.contains(part))
    };
    let runs = args.runs.unwrap_or(50);
    let visits: Vec<_> = ["quic", "webrtc"]
        .into_iter()
        .filter(wanted)
        .flat_map(|transport| (0..runs).map(move |_| transport))
        .collect();
    let visits = at_once(args.sites, visits, |number, transport| {
        let folder = folder.join(format!("outages-{number}"));
        let visit = outages::visit(transport, programs, &folder)?;
        let whole = visit.commands.lost + visit.commands.repeated == 0;
        told(
            args,
            &visit,
            whole,
            &format!("{transport}, visit {number}: {}", summary(&visit)),
        );
        Ok((transport, visit))
    })?;
    Ok(outages_report(&visits))
}

fn play_upgrades(args: &Args, programs: &Programs, folder: &Path) -> Result<Report, SiteError> {
    let runs = (0..args.runs.unwrap_or(10)).collect();
    let visits = at_once(args.sites, runs, |number, _: usize| {
        let visit = upgrade::visit(programs, &folder.join(format!("upgrade-{number}")));
        if let Ok(visit) = &visit {
            told(args, visit, visit.is_well(), &format!("upgrade {number}"));
        }
        visit
    })?;
    let paths = |pick: fn(&upgrade::Visit) -> &Option<String>| {
        let paths: BTreeSet<_> = visits.iter().filter_map(|v| pick(v).as_deref()).collect();
        paths.into_iter().collect::<Vec<_>>().join("; ")
    };
    let times = Spread::of(visits.iter().filter_map(|visit| visit.found_ms));
    let mut sum = Tally::default();
    for visit in &visits {
        sum.add(visit.commands);
        sum.add(visit.messages);
    }
    let failures = visits.iter().filter(|visit| !visit.is_well()).count();
    let table = format!(
        "| runs | before | after | median | slowest | sent | lost | repeated | ok |\n|---|---|---|---|---|---|---|---|---|\n\
         | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        visits.len(),
        paths(|visit| &visit.before),
        paths(|visit| &visit.after),
        times.p50,
        times.max,
        sum.sent,
        sum.lost,
        sum.repeated,
        if failures == 0 { "yes" } else { "no" }
    );
    Ok((table, failures))
}

/// A visit in a line.
fn summary(visit: &Visit) -> String {
    let times = visit.recovered_ms.iter().map(|(name, ms)| match ms {
        Some(ms) => format!("{name} {ms:.0} ms"),
        None => format!("{name} never"),
    });
    times.collect::<Vec<_>>().join(", ")
}

/// What recovery may take, median and 99th percentile, in milliseconds.
fn limits(transport: &str) -> (f64, f64) {
    match transport {
        "quic" => (800.0, 3_000.0),
        _ => (1_000.0, 5_000.0),
    }
}

fn outages_report(visits: &[(&str, Visit)]) -> Report {
    let mut table = String::from(
        "| transport | outage | runs | p50 | p90 | p99 | slowest | never | target | met |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut failures = 0;
    let mut tallies =
        String::from("\n| transport | what | sent | lost | repeated |\n|---|---|---|---|---|\n");
    for transport in ["quic", "webrtc"] {
        let of: Vec<_> = visits
            .iter()
            .filter(|(kind, _)| *kind == transport)
            .collect();
        if of.is_empty() {
            continue;
        }
        for outage in Outage::ALL {
            let name = outage.name();
            let seen = of
                .iter()
                .filter_map(|(_, visit)| visit.recovered_ms.get(&name));
            let never = seen.clone().filter(|ms| ms.is_none()).count();
            let times = Spread::of(seen.filter_map(|ms| *ms));
            let (p50, p99) = limits(transport);
            let met = never == 0 && times.p50.0 <= p50 && times.p99.0 <= p99;
            failures += usize::from(!met);
            table += &format!(
                "| {transport} | {name} | {} | {} | {} | {} | {} | {never} | {p50:.0} / {p99:.0} ms | {} |\n",
                of.len(),
                times.p50,
                times.p90,
                times.p99,
                times.max,
                if met { "yes" } else { "no" }
            );
        }
        for (what, pick) in [
            ("commands", (|visit| visit.commands) as fn(&Visit) -> Tally),
            ("messages", |visit| visit.messages),
        ] {
            let mut sum = Tally::default();
            of.iter().for_each(|(_, visit)| sum.add(pick(visit)));
            failures += usize::from(sum.lost + sum.repeated > 0);
            let Tally {
                sent,
                lost,
                repeated,
            } = sum;
            tallies += &format!("| {transport} | {what} | {sent} | {lost} | {repeated} |\n");
        }
    }
    (table + &tallies, failures)
}

/// A time in milliseconds, for a table.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Millis(f64);

impl std::fmt::Display for Millis {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_finite() {
            write!(out, "{:.0} ms", self.0)
        } else {
            out.write_str("none")
        }
    }
}

/// How times are spread; not finite where there are none.
struct Spread {
    p50: Millis,
    p90: Millis,
    p99: Millis,
    max: Millis,
}

impl Spread {
    fn of(times: impl Iterator<Item = f64>) -> Self {
        let mut times: Vec<_> = times.collect();
        times.sort_by(f64::total_cmp);
        // The nearest rank (the smallest time that so many of a hundred do not exceed).
        let rank = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            Millis(times.get(rank - 1).copied().unwrap_or(f64::NAN))
        };
        Self {
            p50: rank(50),
            p90: rank(90),
            p99: rank(99),
            max: rank(100),
        }
    }
}

/// Plays `cases` in their order, some at a time; the first error ends it.
fn at_once<C: Send, R: Send>(
    jobs: usize,
    cases: Vec<C>,
    play: impl Fn(usize, C) -> Result<R, SiteError> + Sync,
) -> Result<Vec<R>, SiteError> {
    let cases = Mutex::new(cases.into_iter().enumerate());
    let results = Mutex::new(Vec::new());
    let lock = |error: std::sync::PoisonError<_>| error.into_inner();
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = cases.lock().unwrap_or_else(lock).next();
                    let Some((number, case)) = next else { return };
                    let result = play(number, case);
                    let failed = result.is_err();
                    let mut results = results
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    results.push((number, result));
                    if failed {
                        return;
                    }
                }
            });
        }
    });
    let mut results = results
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let spread = Spread::of((1..=200).map(f64::from));
        let seen = [spread.p50, spread.p90, spread.p99, spread.max].map(|ms| ms.0);
        assert_eq!(seen, [100.0, 180.0, 198.0, 200.0]);
        assert_eq!(Spread::of([].into_iter()).max.to_string(), "none");
    }

    #[test]
    fn everything_is_played_once_and_told_in_order() {
        let played = at_once(3, (0..20).collect(), |number, case: usize| {
            Ok((number, case))
        });
        let expected: Vec<_> = (0..20).map(|n| (n, n)).collect();
        assert_eq!(played.unwrap(), expected);
    }
}
