//! What is aimed at, and whether it was reached.

use serde_json::{Value, json};

use crate::figures::{Figures, Listener};

/// Who makes up more than this beyond another, in percentage points, makes up more.
const NO_MORE: f64 = 0.1;

/// A figure beside what is aimed at.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Aim {
    /// The same for each scenario that it is about.
    pub(crate) id: &'static str,
    /// For the page.
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) limit: Limit,
    /// `None` where it could not be taken.
    pub(crate) value: Option<f64>,
}

/// What a figure may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
        }
    }
}

impl Aim {
    pub(crate) fn met(&self) -> Option<bool> {
        self.value.map(|value| match self.limit {
            Limit::AtMost(most) => value <= most,
            Limit::AtLeast(least) => value >= least,
        })
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "value": self.value.map(|value| (value * 100.0).round() / 100.0),
            "unit": self.unit,
            "target": self.limit.to_string(),
            "met": self.met(),
        })
    }
}

/// Adds to a JSON object what was aimed at, as `aims`, and whether all of it was reached, as `met`; null where nothing is
/// aimed at, or nothing of it could be taken.
pub(crate) fn add_to(object: &mut Value, aims: &[Aim]) {
    let met: Vec<bool> = aims.iter().filter_map(Aim::met).collect();
    object["met"] = (!met.is_empty()).then(|| met.iter().all(|met| *met)).into();
    object["aims"] = aims.iter().map(Aim::json).collect();
}

/// The names of those that were missed, for the end of a line.
pub(crate) fn missed(aims: &[Aim]) -> String {
    let missed = aims.iter().filter(|aim| aim.met() == Some(false));
    missed
        .map(|aim| format!("  missed: {} {}", aim.id, aim.limit))
        .collect()
}

/// What is aimed at with these figures, beside those of all who heard the same.
pub(crate) fn of(figures: &Figures, beside: &[Figures]) -> Vec<Aim> {
    if figures.listener != Listener::Adaptive {
        return Vec::new();
    }
    let mut aims = vec![Aim {
        id: "made_up_beyond_lost",
        what: "made up beyond what was lost, in the worst seed",
        unit: "points",
        limit: Limit::AtMost(1.0),
        value: Some(figures.beyond_worst),
    }];
    aims.extend(best_other(figures, beside).map(|best| Aim {
        id: "delay_beside_best",
        what: "mean delay beside the best other that makes up no more",
        unit: "%",
        limit: Limit::AtMost(-25.0),
        value: Some(100.0 * (figures.mean_ms / best.mean_ms - 1.0)),
    }));
    let made_up = |id, what, most| Aim {
        id,
        what,
        unit: "%",
        limit: Limit::AtMost(most),
        value: Some(figures.concealed),
    };
    let pesq = |id, what, least| Aim {
        id,
        what,
        unit: "",
        limit: Limit::AtLeast(least),
        value: figures.pesq,
    };
    match figures.scenario.as_str() {
        "clean" => aims.push(pesq("pesq_clean", "PESQ-WB without loss", 4.0)),
        "loss_10" => aims.extend([
            made_up(
                "made_up_10",
                "made up at 10 % loss, two frames repeated",
                0.5,
            ),
            pesq("pesq_10", "PESQ-WB at 10 % loss, two frames repeated", 3.4),
        ]),
        "loss_20" => aims.extend([
            made_up(
                "made_up_20",
                "made up at 20 % loss, two frames repeated",
                1.5,
            ),
            pesq("pesq_20", "PESQ-WB at 20 % loss, two frames repeated", 2.9),
        ]),
        "loss_10_fec" => aims.push(made_up(
            "made_up_10_fec",
            "made up at 10 % loss, in-band FEC alone",
            1.3,
        )),
        "loss_20_fec" => aims.push(made_up(
            "made_up_20_fec",
            "made up at 20 % loss, in-band FEC alone",
            4.5,
        )),
        _ => {}
    }
    aims.extend(figures.recovery_s.map(|seconds| Aim {
        id: "recovery",
        what: "until the delay is back within 10 ms of what it was, in the worst seed",
        unit: "s",
        limit: Limit::AtMost(5.0),
        value: Some(seconds),
    }));
    aims
}

/// Of the others who heard the same and made up no more, the one with the least delay.
pub(crate) fn best_other<'a>(ours: &Figures, beside: &'a [Figures]) -> Option<&'a Figures> {
    let others = beside
        .iter()
        .filter(|other| other.scenario == ours.scenario && other.listener != ours.listener);
    others
        .filter(|other| other.concealed <= ours.concealed + NO_MORE)
        .min_by(|a, b| a.mean_ms.total_cmp(&b.mean_ms))
}

/// An aim over all that it is about: the rows of the page's first table.
pub(crate) fn table(judged: &[(String, Vec<Aim>)]) -> String {
    let mut rows: Vec<(&Aim, Vec<(&str, &Aim)>)> = Vec::new();
    for (scenario, aims) in judged {
        for aim in aims {
            match rows.iter_mut().find(|(first, _)| first.id == aim.id) {
                Some((_, all)) => all.push((scenario, aim)),
                None => rows.push((aim, vec![(scenario, aim)])),
            }
        }
    }
    let row = |(aim, all): &(&Aim, Vec<(&str, &Aim)>)| {
        let shown = |(scenario, aim): &(&str, &Aim)| {
            let value = aim
                .value
                .map_or("not taken".into(), |value| format!("{value:.2}"));
            format!("{scenario}: {value}")
        };
        let not = |met| all.iter().filter(move |(_, aim)| aim.met() != met);
        let met = all.len() - not(Some(true)).count();
        let told: Vec<String> = if all.len() == 1 {
            all.iter().map(shown).collect()
        } else {
            not(Some(true)).map(shown).collect()
        };
        let told = told.join(", ");
        let unit = if aim.unit.is_empty() { "" } else { " " };
        format!(
            "| {} | {}{unit}{} | {met} of {} | {told} |\n",
            aim.what,
            aim.limit,
            aim.unit,
            all.len()
        )
    };
    let rows: String = rows.iter().map(row).collect();
    format!("| aim | target | met | the one, or where not |\n|---|---|---|---|\n{rows}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(scenario: &str, listener: Listener, mean_ms: f64, concealed: f64) -> Figures {
        Figures {
            scenario: scenario.into(),
            listener,
            lost: 10.0,
            mean_ms,
            mean_worst_ms: mean_ms,
            p95_ms: mean_ms,
            slowest_ms: 5.0,
            concealed,
            concealed_worst: concealed,
            beyond_worst: concealed - 10.0,
            stretched: 0.0,
            late: 0.0,
            recovery_s: None,
            kbps: 32.0,
            pesq: None,
            pesq_worst: None,
        }
    }

    #[test]
    fn the_delay_is_compared_with_the_best_that_makes_up_no_more() {
        let all = [
            heard("loss_10_fec", Listener::Adaptive, 40.0, 1.2),
            heard("loss_10_fec", Listener::Fixed(60), 60.0, 1.25),
            heard("loss_10_fec", Listener::Fixed(100), 100.0, 0.5),
            heard("loss_10_fec", Listener::NetEq, 30.0, 14.0),
        ];
        let aims = of(&all[0], &all);
        let met: Vec<_> = aims.iter().map(|aim| (aim.id, aim.met())).collect();
        let expected = [
            ("made_up_beyond_lost", Some(true)),
            ("delay_beside_best", Some(true)),
            ("made_up_10_fec", Some(true)),
        ];
        assert_eq!(met, expected);
        assert!((aims[1].value.unwrap() + 33.3).abs() < 0.1, "{aims:?}");
        assert_eq!(of(&all[1], &all), [], "others are only compared with");
    }

    #[test]
    fn an_object_tells_its_targets_and_whether_all_are_met() {
        let mut spike = heard("spike", Listener::Adaptive, 30.0, 0.0);
        spike.recovery_s = Some(5.5);
        let mut object = json!({});
        add_to(&mut object, &of(&spike, &[]));
        assert_eq!(object["met"], false);
        let recovery =
            json!({"id": "recovery", "value": 5.5, "unit": "s", "target": "<= 5", "met": false});
        assert_eq!(object["aims"][1], recovery);
        add_to(&mut object, &[]);
        assert_eq!(object["met"], Value::Null);
    }

    #[test]
    fn the_page_says_where_an_aim_is_missed_and_what_was_not_taken() {
        let mut clean = heard("clean", Listener::Adaptive, 20.0, 11.5);
        clean.pesq = None;
        let wifi = heard("wifi", Listener::Adaptive, 20.0, 10.5);
        let judged = [
            ("clean".into(), of(&clean, &[])),
            ("wifi".into(), of(&wifi, &[])),
        ];
        let table = table(&judged);
        assert!(
            table.contains("worst seed | <= 1 points | 1 of 2 | clean: 1.50 |"),
            "{table}"
        );
        assert!(
            table.contains(">= 4 | 0 of 1 | clean: not taken |"),
            "{table}"
        );
    }
}
