//! What the process takes of the machine, where Linux's `/proc` tells, under the names that Prometheus' own clients use.

use std::fs;

use crate::metrics::Text;

/// Reads and renders all of it; blocks.
pub(crate) fn render(text: &mut Text) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let resident = status.lines().find(|line| line.starts_with("VmRSS:"));
    if let Some(resident) = resident.and_then(kilobytes) {
        let help = "Resident memory in bytes.";
        text.process("process_resident_memory_bytes", help, resident * 1024);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is this look itself.
        let open = open.count().saturating_sub(1) as u64;
        text.process("process_open_fds", "Open file descriptors.", open);
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let most = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let most = most.and_then(|line| line.split_whitespace().next()?.parse().ok());
    if let Some(most) = most {
        let help = "Most file descriptors that may be open.";
        text.process("process_max_fds", help, most);
    }
}
