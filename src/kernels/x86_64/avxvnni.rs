//! AVX with VNNI, in the encoding of AVX-VNNI. Four columns at a time: 8 sums, 4 weights, and the rest for
//! multipliers and activations.

use super::F16c;
use super::halves::{Halves, VEX};
use super::line::panel_kernels;
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;

with_features!(avxvnni, float_kernels!(F16c));
with_features!(avxvnni, panel_kernels!(Halves<VEX>));

/// The panel kernels in the encoding of AVX-512, for processors that have no other.
pub(super) mod evex {
    use crate::kernels::x86_64::halves::{EVEX, Halves};
    use crate::kernels::x86_64::line::panel_kernels;

    panel_kernels!("avx2,fma,f16c,avx512f,avx512vl,avx512vnni"; Halves<EVEX>);
}
