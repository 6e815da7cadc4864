//! The page `docs/benchmarks/voice.md`: the tables between its marks, and the pictures beside it.

use std::{fmt::Write as _, fs, io, path::Path};

use crate::{
    Error, aims,
    day::Day,
    drift::Drift,
    figures::{Figures, Listener, Played},
    plot::{Series, svg},
};

const BEGIN: &str = "<!-- scorecard -->";
const END: &str = "<!-- end of scorecard -->";

/// Writes tables and pictures.
pub(crate) fn write(
    folder: &Path,
    played: &[Played],
    all: &[Figures],
    day: Option<&Day>,
    drifts: &[Drift],
) -> Result<(), Error> {
    let path = folder.join("voice.md");
    let page = fs::read_to_string(&path)?;
    let missing = || {
        io::Error::other(format!(
            "{} lacks the lines `{BEGIN}` and `{END}`",
            path.display()
        ))
    };
    let (before, rest) = page.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    let tables = judged(all, day, drifts) + &tables(played, all) + &long_runs(day, drifts);
    fs::write(&path, format!("{before}{BEGIN}\n{tables}{END}{after}"))?;
    for name in ["spike", "wifi"] {
        if let Some(one) = played.iter().find(|one| one.name == name) {
            fs::write(folder.join(format!("voice-{name}.svg")), course(one))?;
        }
    }
    fs::write(folder.join("voice-frontier.svg"), frontier(all))?;
    Ok(())
}

/// All aims, and where they were missed.
fn judged(all: &[Figures], day: Option<&Day>, drifts: &[Drift]) -> String {
    let ours = all.iter().filter(|one| one.listener == Listener::Adaptive);
    let mut judged: Vec<_> = ours
        .map(|one| (one.scenario.clone(), aims::of(one, all)))
        .collect();
    judged.extend(drifts.iter().map(|drift| {
        let name = format!("an hour {:+} ppm off", drift.ppm);
        (name, drift.aims())
    }));
    judged.extend(day.map(|day| ("a day".into(), day.aims())));
    aims::table(&judged)
}

fn tables(played: &[Played], all: &[Figures]) -> String {
    let mut text = String::from(
        "| scenario | listener | delay, mean (worst seed) / 95 % | lost | made up (worst seed) | late | stretched | payload | PESQ-WB (worst seed) |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for figures in all {
        let rated = figures.pesq.zip(figures.pesq_worst);
        let pesq = rated.map_or(String::new(), |(pesq, worst)| {
            format!("{pesq:.2} ({worst:.2})")
        });
        // A string takes whatever is written, here and below.
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} ({:.1}) / {:.1} ms | {:.2} % | {:.2} ({:.2}) % | {:.2} % | {:.2} % | {:.1} kbit/s | {pesq} |",
            figures.scenario,
            figures.listener,
            figures.mean_ms,
            figures.mean_worst_ms,
            figures.p95_ms,
            figures.lost,
            figures.concealed,
            figures.concealed_worst,
            figures.late,
            figures.stretched,
            figures.kbps,
        );
    }
    text.push_str("\n| scenario | what happens | slowest packet | made up beyond what was lost (worst seed) | delay beside the best other that makes up no more | PESQ-WB |\n|---|---|---|---|---|---|\n");
    for one in played {
        if let Some(row) = verdict(one, all) {
            text.push_str(&row);
        }
    }
    let recoveries = all
        .iter()
        .filter(|figures| figures.listener == Listener::Adaptive);
    for (name, seconds) in
        recoveries.filter_map(|figures| Some((&figures.scenario, figures.recovery_s?)))
    {
        let _ = writeln!(
            text,
            "\nAfter the {name} the delay is back within 10 ms after {seconds:.1} s, in the worst seed."
        );
    }
    text
}

/// What came of the long runs.
fn long_runs(day: Option<&Day>, drifts: &[Drift]) -> String {
    let mut text = String::new();
    if let Some(day) = day {
        let _ = writeln!(
            text,
            "\nOver {} virtual hours the delay grows by {:.2} ms from the first hour to the last, and the process by {} kB; {:.2} % is made up, of 1 % lost.",
            day.hours_ms.len(),
            day.growth_ms(),
            day.memory_growth_kb(),
            day.concealed,
        );
    }
    for drift in drifts {
        let _ = writeln!(
            text,
            "\nA clock that is {:+} ppm off, for {} minutes with 10 ms of jitter, heard on a tone: the steepest step is {:.2} times the tone's own, the delay {:.1} ms in the mean and within {:.1} ms, {} frames were stretched and {} pieces of 10 ms made up.",
            drift.ppm,
            drift.minutes,
            drift.steepest,
            drift.mean_ms,
            drift.spread_ms,
            drift.stretched,
            drift.concealed,
        );
    }
    text
}

/// What the aims are about: a row of the second table.
fn verdict(one: &Played, all: &[Figures]) -> Option<String> {
    let of = |listener: Listener| {
        all.iter()
            .find(|f| f.scenario == one.name && f.listener == listener)
    };
    let ours = of(Listener::Adaptive)?;
    let beside = aims::best_other(ours, all).map_or("all others make up more".into(), |best| {
        format!(
            "{:+.0} % ({}: {:.0} ms)",
            100.0 * (ours.mean_ms / best.mean_ms - 1.0),
            best.listener,
            best.mean_ms
        )
    });
    let beyond = ours.concealed - ours.lost;
    let pesq = ours.pesq.map_or(String::new(), |pesq| format!("{pesq:.2}"));
    Some(format!(
        "| {} | {} | {:.0} ms | {beyond:+.2} ({:+.2}) points | {beside} | {pesq} |\n",
        one.name, one.what, ours.slowest_ms, ours.beyond_worst
    ))
}

/// Delay over time, and the one aimed at.
fn course(one: &Played) -> String {
    let heard = one
        .heard
        .get(&Listener::Adaptive)
        .and_then(|heard| heard.first());
    let course = heard.map_or(&[][..], |heard| &heard.course);
    let line = |name: &str, colour, part: fn(&(f64, f32, f32)) -> f32| Series {
        name: name.into(),
        colour,
        points: course
            .iter()
            .map(|point| (point.0, f64::from(part(point))))
            .collect(),
        line: true,
    };
    let series = [
        line("delay", "#1f77b4", |point| point.1),
        line("aimed at", "#d62728", |point| point.2),
    ];
    let title = format!("{}: {}", one.name, one.what);
    svg(
        &title,
        ["seconds", "milliseconds behind the fastest packet"],
        (60.0, 200.0),
        &series,
    )
}

/// Delay against what is made up beyond what was lost, a dot a scenario.
fn frontier(all: &[Figures]) -> String {
    let dots = |listener: Listener, colour| Series {
        name: listener.to_string(),
        colour,
        points: all
            .iter()
            .filter(|figures| figures.listener == listener)
            .map(|figures| (figures.mean_ms, (figures.concealed - figures.lost).max(0.0)))
            .collect(),
        line: false,
    };
    let series = [
        dots(Listener::Adaptive, "#1f77b4"),
        dots(Listener::Fixed(60), "#ff7f0e"),
        dots(Listener::Fixed(100), "#2ca02c"),
        dots(Listener::NetEq, "#7f7f7f"),
    ];
    let axes = ["mean delay in ms", "percent made up beyond what was lost"];
    svg("each scenario", axes, (240.0, 8.0), &series)
}
