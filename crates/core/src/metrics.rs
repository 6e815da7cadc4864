//! How a part shows its numbers without knowing who reads them.

/// Receives metrics from an [`Observe`]r. Names are `snake_case` with the unit last
/// (`rtt_ms`, `received_bytes`).
pub trait MetricsVisitor {
    /// A value that only grows, wrapping at 2^64.
    fn counter(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: u64);
    /// A value that goes up and down.
    fn gauge(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64);
}

/// Something that can be asked for its metrics.
pub trait Observe {
    /// Shows every metric once. Must not block.
    fn observe(&self, visitor: &mut dyn MetricsVisitor);
}
