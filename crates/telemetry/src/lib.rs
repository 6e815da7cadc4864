#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

use std::{collections::BTreeMap, fmt::Write};

use roundtable_core::{MetricsVisitor, Observe};

/// Every metric of these parts as Prometheus text (exposition format 0.0.4).
pub fn prometheus(parts: &[&dyn Observe]) -> String {
    let mut families = Families::default();
    for part in parts {
        part.observe(&mut families);
    }
    families.render()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// Lines by family, so that all values of a name stand together.
#[derive(Debug, Default)]
struct Families(BTreeMap<&'static str, (Kind, String)>);

impl Families {
    fn add(&mut self, kind: Kind, name: &'static str, labels: &[(&str, &str)], value: &str) {
        let family = self.0.entry(name).or_insert((kind, String::new()));
        if family.0 != kind {
            return;
        }
        let lines = &mut family.1;
        push_name(lines, kind, name);
        for (index, (label, text)) in labels.iter().enumerate() {
            lines.push(if index == 0 { '{' } else { ',' });
            lines.push_str(label);
            lines.push_str("=\"");
            push_escaped(lines, text);
            lines.push('"');
        }
        if !labels.is_empty() {
            lines.push('}');
        }
        lines.push(' ');
        lines.push_str(value);
        lines.push('\n');
    }

    fn render(self) -> String {
        let mut text = String::new();
        for (name, (kind, lines)) in self.0 {
            text.push_str("# TYPE ");
            push_name(&mut text, kind, name);
            text.push_str(match kind {
                Kind::Counter => " counter\n",
                Kind::Gauge => " gauge\n",
            });
            text.push_str(&lines);
        }
        text
    }
}

fn push_name(text: &mut String, kind: Kind, name: &str) {
    let suffix = match kind {
        Kind::Counter => "_total",
        Kind::Gauge => "",
    };
    // Writing to a string does not fail.
    let _ = write!(text, "roundtable_{name}{suffix}");
}

fn push_escaped(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

impl MetricsVisitor for Families {
    fn counter(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: u64) {
        self.add(Kind::Counter, name, labels, &value.to_string());
    }

    fn gauge(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        let value = match value {
            value if value == f64::INFINITY => "+Inf".to_owned(),
            value if value == f64::NEG_INFINITY => "-Inf".to_owned(),
            value => value.to_string(),
        };
        self.add(Kind::Gauge, name, labels, &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Part(&'static str);

    impl Observe for Part {
        fn observe(&self, visitor: &mut dyn MetricsVisitor) {
            visitor.counter("packets", &[("peer", self.0), ("kind", "voice")], 7);
            visitor.gauge("delay_ms", &[], f64::NAN);
            visitor.gauge("limit", &[], f64::INFINITY);
            if self.0 == "b" {
                visitor.gauge("packets", &[], 1.0);
            }
        }
    }

    #[test]
    fn the_values_of_a_name_stand_together_under_one_type() {
        let expected = "\
# TYPE roundtable_delay_ms gauge
roundtable_delay_ms NaN
roundtable_delay_ms NaN
# TYPE roundtable_limit gauge
roundtable_limit +Inf
roundtable_limit +Inf
# TYPE roundtable_packets_total counter
roundtable_packets_total{peer=\"a\\\"\\\\\\n\",kind=\"voice\"} 7
roundtable_packets_total{peer=\"b\",kind=\"voice\"} 7
";
        assert_eq!(prometheus(&[&Part("a\"\\\n"), &Part("b")]), expected);
    }
}
