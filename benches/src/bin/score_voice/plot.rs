//! Small pictures, written as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 46.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 22.0;

/// What is drawn of one listener.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) colour: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
    /// A line through the points, or a dot for each.
    pub(crate) line: bool,
}

/// A picture with both axes from 0 to their ends, and a line under it that says what they are.
pub(crate) fn svg(title: &str, axes: [&str; 2], ends: (f64, f64), series: &[Series]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"14\">{title}</text>\n"
    );
    let x = |value: f64| LEFT + (WIDTH - LEFT - 10.0) * (value / ends.0).clamp(0.0, 1.0);
    let y =
        |value: f64| HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value / ends.1).clamp(0.0, 1.0);
    for part in 0..=4 {
        let share = f64::from(part) / 4.0;
        let (across, up) = (share * ends.0, share * ends.1);
        // A string takes whatever is written, here and below.
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {0:.1}H{1}\" stroke=\"#ddd\"/><text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{up:.0}</text><text x=\"{4:.1}\" y=\"{5}\" text-anchor=\"middle\">{across:.0}</text>",
            y(up),
            WIDTH - 10.0,
            LEFT - 5.0,
            y(up) + 4.0,
            x(across),
            HEIGHT - BOTTOM + 14.0,
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\">across: {}; up: {}</text>",
        HEIGHT - 5.0,
        axes[0],
        axes[1]
    );
    for (index, one) in series.iter().enumerate() {
        let colour = one.colour;
        if one.line {
            let path: String = one
                .points
                .iter()
                .map(|(at, value)| format!("{:.1},{:.1} ", x(*at), y(*value)))
                .collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
            );
        } else {
            for (at, value) in &one.points {
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\" fill-opacity=\"0.7\"/>",
                    x(*at),
                    y(*value)
                );
            }
        }
        let place = WIDTH - 330.0 + 82.0 * index as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{place}\" y=\"6\" width=\"9\" height=\"9\" fill=\"{colour}\"/><text x=\"{}\" y=\"14\">{}</text>",
            place + 13.0,
            one.name
        );
    }
    svg + "</svg>\n"
}
