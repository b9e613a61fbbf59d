//! AVX2, for two columns at a time: 4 sums, 4 of a group, 4 weights, and the multipliers in what is left.

use super::F16c;
use super::halves::{Halves, MADDUBS};
use super::line::panel_kernels;
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;

with_features!(avx2, float_kernels!(F16c));
with_features!(avx2, panel_kernels!(Halves<MADDUBS>));
