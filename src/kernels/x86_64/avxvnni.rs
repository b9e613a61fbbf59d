//! VNNI on 256 bits, in the encoding of AVX-VNNI. Four columns at a time: 8 sums, 4 weights, and the rest for
//! multipliers and activations.

use super::f16c::F16c;
use super::panel::panel_kernels;
use super::ymm::{VEX, Ymm};
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;

with_features!(avxvnni, float_kernels!(F16c<false>));
with_features!(avxvnni, panel_kernels!(Ymm<VEX>));
