//! AVX with VNNI, in the encoding of AVX-VNNI.

use super::{F16c, halves::Halves, line::panel_kernels};
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;

with_features!(avxvnni, float_kernels!(F16c));
with_features!(avxvnni, panel_kernels!(Halves<false>));

/// The panel kernels in the encoding of AVX-512, for processors that have no other.
pub(super) mod evex {
    use crate::kernels::x86_64::{halves::Halves, line::panel_kernels};

    panel_kernels!("avx2,fma,f16c,avx512f,avx512vl,avx512vnni"; Halves<true>);
}
