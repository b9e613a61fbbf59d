//! The verbs of the program `cinderblock`, as a library: other programs call them without starting a process.
//!
//! ```
//! use cinderblock_tools::{parse, verbs};
//!
//! fn main() -> cinderblock::Result<()> {
//!     verbs::tokenize::run(parse(["-p", "The rain had stopped."])?)
//! }
//! ```
//!
//! A verb prints to standard output and standard error, and listens for signals from its start on.

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

mod arguments;
mod calibration;
mod checkpoint;
mod command_line;
mod constraint;
mod conversation;
mod divergence;
mod draft;
mod input;
mod interrupt;
mod memory;
mod npy;
mod output;
mod partial;
mod plot;
mod positions;
mod progress;
mod prompt;
mod quantize;
mod sampling;
mod scoring;
mod signals;
mod statistics;
#[doc(hidden)]
pub mod unstable;
pub mod verbs;

pub use command_line::{main, main_with, parse};
