//! VNNI on 256 bits in the encoding of AVX-512: the walk of `avxvnni`, on machines that have the other encoding only.
//! They also have 512 bits, so it is here to be compared and tested.

use super::f16c::F16c;
use super::panel::panel_kernels;
use super::ymm::{EVEX, Ymm};
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;

with_features!(avx512vnni_256, float_kernels!(F16c<false>));
with_features!(avx512vnni_256, panel_kernels!(Ymm<EVEX>));
