//! `cargo xtask lint`: formatting, and clippy with warnings denied.

use crate::step::Step;

/// Clippy sees every feature, the same set as the tests and the documentation, so that they share
/// what is built.
pub(crate) const STEPS: [Step; 2] = [
    Step::cargo("formatting", &["fmt", "--all", "--check"]),
    Step::cargo(
        "clippy",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ],
    ),
];
