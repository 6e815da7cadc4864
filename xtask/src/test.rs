//! `cargo xtask test`: all tests, and the examples in the documentation.

use crate::step::Step;

/// Doc tests run apart because `--all-targets` leaves them out.
pub(crate) const STEPS: [Step; 2] = [
    Step::cargo(
        "tests",
        &["test", "--workspace", "--all-targets", "--all-features"],
    ),
    Step::cargo(
        "doc tests",
        &["test", "--workspace", "--doc", "--all-features"],
    ),
];
