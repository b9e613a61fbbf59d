//! The protocol of `src/threads`, compiled with loom's primitives, and models of its use.
//!
//! Loom runs a model in every order of its threads' steps, up to a number of preemptions, and with every value that
//! the memory model lets a load return. It knows no spurious wake-ups.
//!
//!     cargo test --release --manifest-path tests/threads/Cargo.toml
//!
//! `CINDERBLOCK_MORE_PREEMPTIONS=1` explores more of them, for an hour.
#![allow(dead_code, reason = "models use a part of the protocol")]
#![allow(clippy::reversed_empty_ranges, clippy::absurd_extreme_comparisons, reason = "no rounds of waiting")]

#[path = "../../src/threads/divide.rs"]
mod divide;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/threads/idle.rs"]
mod idle;
#[path = "../../src/threads/jobs.rs"]
mod jobs;
#[path = "../../src/threads/phases.rs"]
mod phases;
pub mod models;
mod pool;
#[path = "../../src/threads/processors.rs"]
mod processors;
#[path = "../../src/threads/region.rs"]
mod region;
pub mod sync;
#[path = "../../src/threads/team.rs"]
mod team;
