//! Figures: from what the programs printed to lines with targets and a page.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use serde_json::json;

use super::programs::Program;
use crate::{page, workspace::Workspace};

/// What marks the table in a page.
const MARK: &str = "figures";

/// What one round of an area's programs printed: values by id, or why there is none.
pub(super) type Round = BTreeMap<String, Taken>;

/// A raw figure, or why it could not be taken.
pub(super) type Taken = std::result::Result<f64, String>;

/// A part of the project whose figures are taken together.
#[derive(Debug)]
pub(crate) struct Area {
    /// As `cargo xtask bench` knows it.
    pub(super) name: &'static str,
    /// Its page under `docs/benchmarks`.
    pub(super) page: &'static str,
    /// What prints the raw figures.
    pub(super) programs: &'static [Program],
    /// What is reported, in this order.
    pub(super) figures: &'static [Figure],
}

/// One reported figure.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) id: &'static str,
    pub(super) unit: &'static str,
    pub(super) from: From,
    pub(super) target: Target,
    /// What it means, for the page.
    pub(super) what: &'static str,
}

/// What a figure is made of.
#[derive(Debug)]
pub(super) enum From {
    /// The raw figure of the same id.
    Raw,
    /// One raw figure divided by another of the same round.
    Ratio(&'static str, &'static str),
    /// One raw figure divided by the least of others of the same round, of which some may be missing.
    RatioToLeast(&'static str, &'static [&'static str]),
}

/// What is aimed at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// At most this on a quiet machine: what else runs there decides, so that a gate does not look at it.
    QuietAtMost(f64),
    /// Reported for comparison, without an aim.
    None,
}

/// A figure's median over all rounds, and how far the rounds lie apart.
#[derive(Debug)]
pub(super) struct Result {
    figure: &'static Figure,
    /// Lowest, median, highest; `None` where no round has it, because a peer is not installed.
    spread: Option<[f64; 3]>,
    /// Why there is none.
    why: Option<String>,
}

impl Area {
    /// The figures of all rounds.
    pub(super) fn results(&self, rounds: &[Round]) -> Vec<Result> {
        let result = |figure: &'static Figure| {
            let taken: Vec<Taken> = rounds.iter().map(|round| figure.value(round)).collect();
            let spread = spread(taken.iter().flatten().copied());
            let why = taken.into_iter().find_map(Taken::err);
            Result {
                figure,
                spread,
                why: why.filter(|_| spread.is_none()),
            }
        };
        self.figures.iter().map(result).collect()
    }

    /// Writes the table into the page, between the lines that mark it.
    pub(super) fn write(&self, workspace: &Workspace, results: &[Result]) -> io::Result<()> {
        let path = self.path(workspace);
        let page = fs::read_to_string(&path)
            .unwrap_or_else(|_| format!("# Benchmarks: {}\n\n{}", self.name, page::marks(MARK)));
        let rows: String = results.iter().map(Result::row).collect();
        let table = format!(
            "`cargo xtask bench {}`:\n\n| figure | median | lowest to highest | target | met |\n|---|---|---|---|---|\n{rows}",
            self.name
        );
        page::write(&path, &page, MARK, &table)
    }

    fn path(&self, workspace: &Workspace) -> PathBuf {
        workspace.root().join("docs/benchmarks").join(self.page)
    }
}

impl Figure {
    fn value(&self, round: &Round) -> Taken {
        let taken = |id: &str| {
            let missing = || Err(format!("no program has printed {id}"));
            round.get(id).cloned().unwrap_or_else(missing)
        };
        match self.from {
            From::Raw => taken(self.id),
            From::Ratio(ours, theirs) => Ok(taken(ours)? / taken(theirs)?),
            From::RatioToLeast(ours, theirs) => {
                let least = theirs.iter().filter_map(|id| taken(id).ok());
                let least = least.min_by(f64::total_cmp);
                let least = least.ok_or("none of the others was measured")?;
                Ok(taken(ours)? / least)
            }
        }
    }
}

impl Target {
    fn met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(value >= least),
            Self::AtMost(most) | Self::QuietAtMost(most) => Some(value <= most),
            Self::None => None,
        }
    }

    fn shown(self) -> Option<String> {
        match self {
            Self::AtLeast(least) => Some(format!(">= {}", human(least))),
            Self::AtMost(most) | Self::QuietAtMost(most) => Some(format!("<= {}", human(most))),
            Self::None => None,
        }
    }
}

impl Result {
    /// Whether a gate has to close: the figure misses its target by more than this factor, which is 1 or more. A
    /// figure that could not be taken misses nothing.
    pub(super) fn missed(&self, slack: f64) -> bool {
        let target = match self.figure.target {
            Target::AtLeast(least) => Target::AtLeast(least / slack),
            Target::AtMost(most) => Target::AtMost(most * slack),
            Target::QuietAtMost(_) | Target::None => return false,
        };
        self.spread
            .is_some_and(|[_, median, _]| target.met(median) == Some(false))
    }

    fn met(&self) -> Option<bool> {
        self.figure.target.met(self.spread?[1])
    }

    /// `{"id","value","unit","target","met"}`; where the figure could not be taken `value` is null, and `why` says why.
    pub(super) fn json(&self) -> serde_json::Value {
        let mut line = json!({
            "id": self.figure.id,
            "value": self.spread.map(|[_, median, _]| median),
            "unit": self.figure.unit,
            "target": self.figure.target.shown(),
            "met": self.met(),
        });
        if let Some(why) = &self.why {
            line["why"] = why.as_str().into();
        }
        line
    }

    fn row(&self) -> String {
        let Figure { id, unit, what, .. } = self.figure;
        let (median, range) = match self.spread {
            Some([low, median, high]) => (
                format!("{} {unit}", human(median)),
                format!("{} to {}", human(low), human(high)),
            ),
            None => ("not taken".into(), self.why.clone().unwrap_or_default()),
        };
        let target = self.figure.target.shown().unwrap_or_default();
        let met = self.met().map_or("", |met| if met { "yes" } else { "no" });
        format!("| `{id}`: {what} | {median} | {range} | {target} | {met} |\n")
    }
}

/// Lowest, median (the lower one of an even number) and highest.
fn spread(values: impl Iterator<Item = f64>) -> Option<[f64; 3]> {
    let mut values: Vec<_> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let median = values.get(values.len().checked_sub(1)? / 2)?;
    Some([*values.first()?, *median, *values.last()?])
}

/// With three digits that count, and groups of thousands.
fn human(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 {
        let whole = format!("{value:.0}");
        let digits = whole.len();
        let mut shown = String::with_capacity(digits + digits / 3);
        for (index, digit) in whole.chars().enumerate() {
            if index > 0 && (digits - index).is_multiple_of(3) && !shown.ends_with('-') {
                shown.push(',');
            }
            shown.push(digit);
        }
        return shown;
    }
    let decimals = match magnitude {
        0.0 => 0,
        m if m >= 100.0 => 0,
        m if m >= 10.0 => 1,
        m if m >= 1.0 => 2,
        m if m >= 0.1 => 3,
        _ => 4,
    };
    let shown = format!("{value:.decimals$}");
    if shown.contains('.') {
        return shown.trim_end_matches('0').trim_end_matches('.').into();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: [Figure; 2] = [
        Figure {
            id: "ours",
            unit: "1/s",
            from: From::Raw,
            target: Target::AtLeast(1_000_000.0),
            what: "ours",
        },
        Figure {
            id: "ratio",
            unit: "x",
            from: From::Ratio("ours", "theirs"),
            target: Target::AtMost(2.0),
            what: "beside theirs",
        },
    ];
    const AREA: Area = Area {
        name: "area",
        page: "area.md",
        programs: &[],
        figures: &FIGURES,
    };

    fn round(ours: f64, theirs: Option<f64>) -> Round {
        let theirs = theirs.map(|theirs| ("theirs".to_owned(), Ok(theirs)));
        [("ours".to_owned(), Ok(ours))]
            .into_iter()
            .chain(theirs)
            .collect()
    }

    #[test]
    fn a_ratio_is_taken_within_a_round_and_the_median_over_rounds() {
        let rounds = [
            round(900_000.0, Some(300_000.0)),
            round(1_200_000.0, Some(1_200_000.0)),
            round(1_000_000.0, Some(400_000.0)),
        ];
        let results = AREA.results(&rounds);
        assert_eq!(
            results[0].json(),
            json!({"id": "ours", "value": 1_000_000.0, "unit": "1/s", "target": ">= 1,000,000", "met": true})
        );
        assert_eq!(results[1].spread, Some([1.0, 2.5, 3.0]));
        assert!(results[1].missed(1.0));
        assert!(!results[1].missed(1.25), "with some slack");
    }

    #[test]
    fn a_figure_without_its_peer_is_said_to_be_not_taken() {
        let results = AREA.results(&[round(1.0, None)]);
        assert_eq!(results[1].json()["value"], serde_json::Value::Null);
        assert!(!results[1].missed(1.0));
        assert!(results[1].row().contains("not taken"));
    }

    #[test]
    fn a_figure_without_its_tool_says_which() {
        let mut without = round(1.0, None);
        without.insert("theirs".into(), Err("no node".into()));
        let results = AREA.results(&[without.clone()]);
        assert_eq!(results[1].json()["why"], "no node");
        assert!(results[1].row().contains("no node"));
        let results = AREA.results(&[without, round(4.0, Some(2.0))]);
        assert_eq!(results[1].json()["value"], 2.0);
        assert_eq!(results[1].json().get("why"), None);
    }

    #[test]
    fn the_least_of_others_is_that_of_those_who_were_measured() {
        let figure = Figure {
            id: "ratio",
            unit: "x",
            from: From::RatioToLeast("ours", &["missing", "theirs", "slow"]),
            target: Target::None,
            what: "beside the better",
        };
        let mut all = round(6.0, Some(3.0));
        all.insert("slow".into(), Ok(5.0));
        assert_eq!(figure.value(&all), Ok(2.0));
        assert!(figure.value(&round(6.0, None)).is_err());
    }

    #[test]
    fn numbers_are_shown_with_the_digits_that_count() {
        let shown = [0.0, 0.00123, 0.5, 2.5, 12.34, 123.4, 1234.5, -1_234_567.0].map(human);
        let expected = [
            "0",
            "0.0012",
            "0.5",
            "2.5",
            "12.3",
            "123",
            "1,234",
            "-1,234,567",
        ];
        assert_eq!(shown, expected);
    }
}
