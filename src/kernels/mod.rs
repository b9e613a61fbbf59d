//! The kernels: for every instruction set one table of functions, and one safe entry point to them.
//!
//! [`Kernels::all`] is the registry. Dispatch, tests and benchmarks all read it: a kernel outside it cannot
//! ship, and a kernel in it cannot go untested. From the bottom: `isa` names the instruction sets and detects their
//! features, `operands` is the data that a kernel is given, `table` the functions of one instruction set with every
//! length checked once per call, `generic` the float routines that each instruction set compiles again, `scalar`,
//! `x86_64` and `aarch64` the tables, and `registry` the list of them. The model calls `activations`, `attention`
//! and `product`.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod activations;
mod attention;
mod generic;
mod isa;
mod operands;
mod pass;
mod product;
mod registry;
mod scalar;
mod table;
mod vectorize;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use activations::Activations;
pub use attention::KeyValue;
pub use isa::Isa;
pub use operands::{Attention, ColumnTile, LANES, QUERIES, RowAttention, Run, Stored, Visible, score_floats};
pub use pass::Pass;
pub use product::{Epilogue, Product, Term, multiply};
pub use table::{Activation, Kernels};
pub use vectorize::{Vectorized, vectorize};
