//! AVX-512 without VNNI.

use super::{F16c, line::panel_kernels, wide::Wide};
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;

with_features!(avx512bw, float_kernels!(F16c));
with_features!(avx512bw, panel_kernels!(Wide<false>));
