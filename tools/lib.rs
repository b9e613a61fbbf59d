//! The verbs of the program `cinderblock`, as a library: other programs and languages call them without starting it.

mod arguments;
mod calibration;
mod checkpoint;
mod command_line;
mod divergence;
mod interrupt;
mod memory;
mod npy;
mod output;
mod plot;
mod quantize;
mod samples;
mod sampling;
mod statistics;
mod verbs;

pub use command_line::main;
