//! Sessions of several peers over links in memory, in virtual time.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)] // a test may fail

mod agreement;
mod checkpoints;
mod convergence;
mod datagrams;
mod elision;
mod failover;
mod forks;
mod guests;
mod handshake;
mod messages;
mod pacing;
mod submitting;
mod world;
