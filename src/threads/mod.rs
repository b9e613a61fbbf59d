//! The threads: which processors there are, the team that works on one job at a time, and the ways to divide data
//! among its threads.
//!
//! Knows nothing of the work. A kernel that keeps something in a thread, such as tile registers, registers a hook
//! with [`at_rest`] to be called when the thread has nothing to do.

mod divide;
mod idle;
mod jobs;
mod phases;
mod pool;
mod processors;
mod region;
mod sync;
mod team;

pub(crate) use divide::{Chunks, Divide, Pieces, Ranges, Strip, Strips};
#[cfg(target_arch = "x86_64")]
pub(crate) use idle::at_rest;
pub use phases::Phase;
pub use processors::Processors;
pub use region::Region;
pub use team::{Team, measure_phases, take_phases};
