//! AVX2.
//!
//! In q4 one or two columns take the walk of `panel`, more share a span of levels by that of `levels`: up to 7 columns
//! by 8 rows, or, with unpacked levels, tiles of 4 columns by 16 rows: 8 sums, 2 levels, an activation and a product.

use super::f16c::F16c;
use super::levels::level_kernels;
use super::ymm::{MADDUBS, Ymm};
use crate::kernels::generic::float_kernels;
use crate::kernels::isa::with_features;
use crate::kernels::table::PanelKernels;

/// The walk of `panel`.
mod few {
    use crate::kernels::isa::with_features;
    use crate::kernels::x86_64::panel::panel_kernels;
    use crate::kernels::x86_64::ymm::{MADDUBS, Ymm};

    with_features!(avx2, panel_kernels!(Ymm<MADDUBS>));
}

with_features!(avx2, float_kernels!(F16c<false>));
with_features!(avx2, level_kernels!(ymm, Ymm<MADDUBS>; 7 6 5 4 3; 4 3 2));

pub(super) const PANELS: PanelKernels = PanelKernels { q4_tiles: Some((2, q4_tiles)), ..few::PANELS };
