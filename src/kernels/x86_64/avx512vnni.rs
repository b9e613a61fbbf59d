//! AVX-512 with VNNI.
//!
//! Up to sixteen columns share the weights: 16 int accumulators, 2 weights, 1 scale, and the activations are
//! broadcast from memory by the instruction itself. The 16 float accumulators are touched once per 32 columns
//! of weights, so those that find no register cost little. Every 8 `vpdpbusd` of a column are followed by a
//! multiplication and a multiply-add on the same two ports, which caps this kernel at 80 % of the peak.

use super::{F16c, line::panel_kernels, wide::Wide};
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;

with_features!(avx512vnni, float_kernels!(F16c));
with_features!(avx512vnni, panel_kernels!(Wide<true>));
