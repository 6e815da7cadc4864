//! What may be negotiated with one peer at a time.

use roundtable_core::TransportKind;

/// At most one negotiation with a peer is in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Slot {
    /// By offer and answer.
    Signaled(TransportKind),
    /// An offer of ours that goes on while one is answered that has crossed it.
    Crossed(TransportKind),
    /// One of the last dials.
    Dial(u32),
    Await,
}

impl Slot {
    pub(super) const fn is_signaled(&self) -> bool {
        matches!(self, Self::Signaled(_) | Self::Crossed(_))
    }
}
