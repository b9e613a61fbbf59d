//! AVX-512 without VNNI.

use super::f16c::F16c;
use super::panel::panel_kernels;
use super::zmm::Zmm;
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;

with_features!(avx512bw, float_kernels!(F16c<true>));
with_features!(avx512bw, panel_kernels!(Zmm<false>));
