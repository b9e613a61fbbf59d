//! AVX-512 with VNNI.
//!
//! Up to sixteen columns share the weights: 16 int accumulators, 2 weights, their multipliers, and the activations are
//! broadcast from memory by the instruction itself. The 16 float accumulators are touched once a span, so those that
//! find no register cost little. With more columns, the q4 weights of a span are unpacked once for all. In q4 32
//! `vpdpbusd` of a column are followed by one multiply-add on the same two ports, which caps the kernel at 97 % of the
//! peak; in q8 8 are followed by two, which caps it at 80 %.

use super::f16c::F16c;
use super::panel::panel_kernels;
use super::zmm::Zmm;
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;

with_features!(avx512vnni, float_kernels!(F16c<true>));
with_features!(avx512vnni, panel_kernels!(Zmm<true>));
