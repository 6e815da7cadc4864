#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod config;
mod driver;
mod endpoint;
#[cfg(test)]
mod hostile;
mod incoming;
mod link;
mod socket;
mod tls;
mod window;
mod wire;

pub use config::{ConfigError, QuicConfig};
pub use endpoint::{AcceptError, BindError, ConnectError, QuicEndpoint};
pub use link::QuicLink;

#[cfg(any(test, feature = "__fuzz"))]
pub use wire::{__fuzz_quic, __fuzz_stream};
