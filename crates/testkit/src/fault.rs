//! Peers that are broken on purpose, to show that the simulator would notice.

/// Something that honest peers of a world do wrong. Each lies outside the product, in what the
/// simulated shell does, but for `RolesByPlainOrder`, `CommitsRivals` and `TrustsSnapshots`, which are switches of the log for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A peer that returns has forgotten its log, and writes as if it were alone.
    ForgetsLogOnRestart,
    /// What was under way on a link when it broke is taken for received, and never taken again.
    DropsTailAtFailover,
    /// A frame that comes twice is applied twice.
    AppliesDuplicates,
    /// Peers let role commands count in their plain order, without ranks.
    RolesByPlainOrder,
    /// Peers do not listen to what others say they hold.
    NeverComparesHeads,
    /// How high a frame's Lamport time may be is counted from the highest that this peer has seen.
    LamportWindowFromHighestSeen,
    /// Signatures are verified by a rule whose verdict depends on the batch.
    DalekBatchRule,
    /// Peers whose logs of an author differ do not look below the heads.
    NeverDescends,
    /// Peers do not listen to what others say of forks.
    NeverSpreadsProofs,
    /// Peers commit every checkpoint that is true, rivals too.
    CommitsRivals,
    /// A joiner uses a snapshot whose values nobody has committed.
    TrustsSnapshots,
    /// Of the messages that peers send each other, every fifth is not handed to the application.
    LosesMessages,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ForgetsLogOnRestart,
        Self::DropsTailAtFailover,
        Self::AppliesDuplicates,
        Self::RolesByPlainOrder,
        Self::NeverComparesHeads,
        Self::LamportWindowFromHighestSeen,
        Self::DalekBatchRule,
        Self::NeverDescends,
        Self::NeverSpreadsProofs,
        Self::CommitsRivals,
        Self::TrustsSnapshots,
        Self::LosesMessages,
    ];
}
