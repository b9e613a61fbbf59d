//! The C library: `include/cinderblock.h` is made of this module, and `docs/embedding.md` explains it.
//!
//! A thin skin. Every function goes through `boundary::call` or `boundary::quietly`, which turn a panic into a
//! status; every pointer is looked at in one of the few functions of `pointer`. There is no state outside the handles
//! but the panic hook, which keeps panics inside a call silent.
//!
//! The functions are unsafe because C hands over pointers. What they rely on is the same for all of them and is written
//! at the top of the header: a pointer is null or valid for what the function says, a handle is null or was made
//! by this library and not freed, a session is used by one thread at a time.
#![allow(non_camel_case_types, reason = "the names of C")]
#![allow(clippy::missing_safety_doc, reason = "the rules are the same for all functions: see above")]

pub mod batch;
mod boundary;
pub mod error;
pub mod generate;
pub mod model;
pub mod options;
mod pointer;
pub mod session;
pub mod state;
pub mod text;
pub mod version;
