//! Rules that a simulator breaks on purpose, to show that it would notice. Only with the feature `__faults`.

/// A rule that is broken.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "__faults"), allow(unreachable_pub))]
pub enum __Broken {
    /// Authors acknowledge and commit every proposal that is true, rivals too.
    CommitsRivals,
    /// Snapshots are used whatever their values are.
    TrustsSnapshots,
    /// Role commands count in their order if their author was an Admin by those before, without ranks.
    RolesByPlainOrder,
}

#[cfg(feature = "__faults")]
mod switch {
    use std::cell::Cell;

    use super::__Broken;

    thread_local! {
        static BROKEN: Cell<Option<__Broken>> = const { Cell::new(None) };
    }

    /// Breaks a rule for all logs of this thread, or none.
    #[doc(hidden)]
    pub fn __break_rule(rule: Option<__Broken>) {
        BROKEN.set(rule);
    }

    pub(crate) fn is_broken(rule: __Broken) -> bool {
        BROKEN.get() == Some(rule)
    }
}

#[cfg(not(feature = "__faults"))]
mod switch {
    pub(crate) const fn is_broken(_: super::__Broken) -> bool {
        false
    }
}

#[cfg(feature = "__faults")]
pub use switch::__break_rule;
pub(crate) use switch::is_broken;
