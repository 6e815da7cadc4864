//! `cargo xtask docs`: the documentation, with warnings denied.

use crate::step::{Action, Step};

pub(crate) const STEP: Step = Step {
    name: "docs",
    action: Action::Cargo {
        args: &["doc", "--workspace", "--no-deps", "--all-features"],
        env: &[("RUSTDOCFLAGS", "-D warnings")],
    },
};
