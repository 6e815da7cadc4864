//! What the programs that measure other transports share: how much is done, and how it is printed. The same as in
//! our own program, `benches/src/bin/transport`.
#![forbid(unsafe_code)]

use std::time::Duration;

/// One message of the bulk.
pub const CHUNK: usize = 16 << 10;
/// One message that goes there and back.
pub const SMALL: usize = 64;
/// Round trips that do not count.
pub const WARM_UP: usize = 200;
/// What our links have, too.
pub const SOCKET_BUFFER: usize = 2 << 20;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub bulk: usize,
    pub trips: usize,
    pub opens: usize,
}

impl Load {
    /// As the command line asks.
    pub fn wanted() -> Self {
        if std::env::args().any(|arg| arg == "--quick") {
            Self {
                bulk: 64 << 20,
                trips: 1000,
                opens: 20,
            }
        } else {
            Self {
                bulk: 128 << 20,
                trips: 4000,
                opens: 60,
            }
        }
    }
}

pub fn print_opens(name: &str, opens: &mut [Duration]) {
    print_figure(
        &format!("{name}_open_p50_ms"),
        quantile(opens, 50) * 1e3,
        "ms",
    );
    print_figure(
        &format!("{name}_open_p95_ms"),
        quantile(opens, 95) * 1e3,
        "ms",
    );
}

pub fn print_trips(name: &str, trips: &mut [Duration]) {
    print_figure(
        &format!("{name}_rtt_p50_us"),
        quantile(trips, 50) * 1e6,
        "µs",
    );
    print_figure(
        &format!("{name}_rtt_p99_us"),
        quantile(trips, 99) * 1e6,
        "µs",
    );
}

#[allow(clippy::cast_precision_loss)] // no figure has that many digits
pub fn print_bulk(name: &str, bytes: usize, took: Duration) {
    let rate = bytes as f64 / took.as_secs_f64() / 1e6;
    print_figure(&format!("{name}_throughput"), rate, "MB/s");
}

fn print_figure(id: &str, value: f64, unit: &str) {
    println!(r#"{{"id":"{id}","value":{value},"unit":"{unit}"}}"#);
}

/// In seconds.
fn quantile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_secs_f64()
}
