//! AVX-512 without VNNI.
//!
//! In q4 one or two columns take the walk of `panel`, more share a span of levels by that of `levels`. A register holds
//! all rows, so a tile of 8 columns has 8 sums of a group and 8 of the span, levels, an activation and a product. In q8 up
//! to 3 columns take the walk of `panel`, more that of `magnitudes`.

use super::f16c::F16c;
use super::levels::level_kernels;
use super::zmm::Zmm;
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;
use crate::kernels::table::PanelKernels;

/// The walk of `panel`.
mod few {
    use crate::kernels::isa::with_features;
    use crate::kernels::x86_64::panel::panel_kernels;
    use crate::kernels::x86_64::zmm::Zmm;

    with_features!(avx512bw, panel_kernels!(Zmm<false>));
}

/// The walk of `magnitudes`.
mod signed {
    use crate::kernels::isa::with_features;
    use crate::kernels::x86_64::magnitudes::magnitude_kernels;
    use crate::kernels::x86_64::zmm::Zmm;

    with_features!(avx512bw, magnitude_kernels!(zmm, Zmm<false>; 8 7 6 5 4; 8 7 6 5 4 3 2));
}

with_features!(avx512bw, float_kernels!(F16c<true>));
with_features!(avx512bw, level_kernels!(zmm, Zmm<false>; 8 7 6 5 4 3 2; 1));

pub(super) const PANELS: PanelKernels =
    PanelKernels { q4_tiles: Some((2, q4_tiles)), q8_tiles: Some((3, signed::q8_tiles)), ..few::PANELS };
