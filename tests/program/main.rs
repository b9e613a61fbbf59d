//! The program and the library under it, one module a topic: `cargo test --test program parity::`
//! runs one of them.

mod common;

mod ablations;
mod architectures;
mod batch;
mod batch_command;
mod batch_speculation;
#[cfg(target_os = "linux")]
mod c_library;
mod checkpoints;
mod command_line;
mod constraints;
mod control;
#[cfg(target_os = "linux")]
mod documents;
#[cfg(unix)]
mod hostile;
#[cfg(target_os = "linux")]
mod interactive;
#[cfg(unix)]
mod killed;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(unix)]
mod outputs;
mod parity;
mod perplexity;
mod quality;
mod quantization;
mod rolling;
#[cfg(unix)]
mod serve;
mod sessions;
mod snapshots;
mod speculation;
