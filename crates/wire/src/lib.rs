#![deny(unsafe_code)]
#![doc = include_str!("../README.md")]

pub mod commands;
pub mod limits;

/// What `flatc --rust` made of `schemas/`. The safe modules beside it are the only way in.
#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::too_many_lines
)]
mod generated {
    #[path = "commands_generated.rs"]
    pub(crate) mod commands;
}

#[cfg(feature = "__fuzz")]
pub use commands::__fuzz_commands;
