//! AVX2.
//!
//! In q4 one or two columns take the walk of `panel`, more share a span of levels by that of `levels`: up to 7 columns
//! by 8 rows, or, with unpacked levels, tiles of 4 columns by 16 rows: 8 sums, 2 levels, an activation and a product. In q8
//! up to 4 columns take the walk of `panel`, more that of `magnitudes`, in tiles of the same kinds.

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

/// The walk of `magnitudes`.
mod signed {
    use crate::kernels::isa::with_features;
    use crate::kernels::x86_64::magnitudes::magnitude_kernels;
    use crate::kernels::x86_64::ymm::{MADDUBS, Ymm};

    with_features!(avx2, magnitude_kernels!(ymm, Ymm<MADDUBS>; 7 6 5; 4 3 2));
}

with_features!(avx2, float_kernels!(F16c<false>));
with_features!(avx2, level_kernels!(ymm, Ymm<MADDUBS>; 7 6 5 4 3; 4 3 2));

pub(super) const PANELS: PanelKernels =
    PanelKernels { q4_tiles: Some((2, q4_tiles)), q8_tiles: Some((4, signed::q8_tiles)), ..few::PANELS };
