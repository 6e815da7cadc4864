#![deny(unsafe_code)]
#![doc = include_str!("../README.md")]

pub mod commands;
pub mod limits;
#[cfg(feature = "rtp")]
pub mod rtp;
pub mod session;

/// What `flatc --rust` made of `schemas/`. The safe modules beside it are the only way in.
#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::unwrap_used,
    clippy::too_many_lines
)]
mod generated {
    #[path = "commands_generated.rs"]
    pub(crate) mod commands;
    #[path = "session_generated.rs"]
    pub(crate) mod session;
}

#[cfg(feature = "__fuzz")]
pub use commands::__fuzz_commands;
#[cfg(all(feature = "__fuzz", feature = "rtp"))]
pub use rtp::{__fuzz_rtcp, __fuzz_rtp};
#[cfg(feature = "__fuzz")]
pub use session::__fuzz_control;
