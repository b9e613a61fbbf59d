//! The threads: which processors there are, and the team that works on one job at a time.

mod processors;
mod team;

pub use processors::Processors;
pub(crate) use team::Pieces;
pub use team::{Region, Team};
