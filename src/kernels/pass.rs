//! Where a pass over the weights runs: the threads that share it and the kernels that they use.

use super::table::Kernels;
use crate::threads::Region;

/// The threads and the kernels of a pass.
#[derive(Clone, Copy)]
pub struct Pass<'r> {
    /// The threads.
    pub region: &'r Region<'r>,
    /// The kernels.
    pub kernels: &'static Kernels,
}

impl<'r> Pass<'r> {
    /// A pass on the threads of `region`.
    pub fn new(region: &'r Region<'r>, kernels: &'static Kernels) -> Self {
        Pass { region, kernels }
    }
}
