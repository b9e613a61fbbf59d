//! The C library: cbindgen generates `include/cinderblock.h` from this module, and `docs/embedding.md` explains it.
//!
//! A thin layer. Every function goes through `boundary::call` or `boundary::quietly`, which turn a panic into a
//! status; only the functions of `pointer` and `size_prefixed` dereference pointers to data. The only state outside the
//! handles is the panic hook, which silences panics inside calls.
//!
//! From the bottom: `failure` (statuses, the error object), `boundary` and `pointer`, `size_prefixed` and `options`,
//! `model`, `text`, `session` (the handle), and the functions that use a session: `tokens`, `settings`, `generate`,
//! `batch` and `state`.
//!
//! The functions are unsafe because C passes pointers. The requirements are the same for all of them and are stated at
//! the top of the header: a pointer is null or valid for its documented use, a handle is null or was created by this
//! library and not freed, and one thread uses a session at a time.
#![allow(non_camel_case_types, reason = "the names of C")]
#![allow(clippy::missing_safety_doc, reason = "the rules are the same for all functions: see above")]

pub mod batch;
mod boundary;
pub mod error;
pub mod failure;
pub mod generate;
pub mod model;
pub mod options;
mod pointer;
pub mod session;
pub mod settings;
mod size_prefixed;
pub mod state;
#[cfg(test)]
mod tests;
pub mod text;
pub mod tokens;
pub mod version;
