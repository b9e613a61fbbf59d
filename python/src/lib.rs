//! The extension module of the Python package `cinderblock`. `python/cinderblock/_native.pyi` describes what it has.

mod batch;
mod error;
mod model;
mod options;
mod quantize;
mod results;
mod session;
mod slot;
mod stream;
mod work;

use std::ffi::OsString;
use std::io::Write;

use pyo3::prelude::*;

/// Runs the program, and gives its exit code. The first word is the program.
#[pyfunction]
#[pyo3(signature = (words, /))]
fn main(py: Python<'_>, words: Vec<OsString>) -> u8 {
    py.detach(|| {
        let code = cinderblock_tools::main_with(words);
        // What is left in a module's buffers is lost when the interpreter ends.
        let _ = std::io::stdout().flush();
        code
    })
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<model::PyModel>()?;
    module.add_class::<session::Session>()?;
    module.add_class::<stream::Stream>()?;
    module.add_class::<results::PyStep>()?;
    module.add_class::<results::Completion>()?;
    module.add_class::<results::Score>()?;
    module.add_class::<results::Estimate>()?;
    module.add_function(wrap_pyfunction!(quantize::quantize, module)?)?;
    module.add_function(wrap_pyfunction!(main, module)?)
}
