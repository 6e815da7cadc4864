//! What the measuring programs under `src/bin` share; the criterion benches are under `benches/`.
#![forbid(unsafe_code)]

/// Prints a raw figure as the JSON line that `cargo xtask bench` reads.
pub fn print_figure(id: &str, value: f64, unit: &str) {
    println!(r#"{{"id":"{id}","value":{value},"unit":"{unit}"}}"#);
}
