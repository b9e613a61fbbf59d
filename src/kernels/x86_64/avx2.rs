//! AVX2, for two columns at a time: 4 sums, 4 of a group, 4 weights, and the multipliers in what is left.

use super::f16c::F16c;
use super::panel::panel_kernels;
use super::ymm::{MADDUBS, Ymm};
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;

with_features!(avx2, float_kernels!(F16c));
with_features!(avx2, panel_kernels!(Ymm<MADDUBS>));
