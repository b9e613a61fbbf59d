//! The kernels: for every instruction set one table of functions, behind one safe entry point.
//!
//! [`Kernels::all`] is the registry. Dispatch, tests and benchmarks all read it: a kernel outside it cannot
//! ship, and a kernel in it cannot go untested. Lengths are checked here, once per call, in every build; the
//! functions behind the table rely on it and on the features that [`Isa::is_available`] found.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod activations;
mod attention;
mod generic;
mod isa;
mod pass;
mod product;
mod scalar;
mod vectorize;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use activations::ColumnWriter;
pub use activations::{Activations, BLOCK_COLUMNS, InputTile, QuantizedBlock, TILE_COLUMNS};
pub use attention::{Attention, KeyValue, QUERIES, score_floats};
pub use isa::Isa;
pub use pass::Pass;
pub use product::{Epilogue, Product, Term, multiply};
pub use vectorize::{Vectorized, vectorize};

use crate::error::Result;
use crate::quant::{PANEL_ROWS, WeightType, Weights};

/// Floats that the generic routines handle at once; head dimensions in the cache are padded to it.
pub const LANES: usize = 16;

/// Products of a panel with a block of quantized columns: `tile[column][row]`.
type PanelKernel = unsafe fn(&[u8], QuantizedBlock<'_>, &mut [[f32; PANEL_ROWS]]);
/// The same with several blocks of columns, one after the other in the tile.
type BlocksKernel = unsafe fn(&[u8], &[QuantizedBlock<'_>], &mut [[f32; PANEL_ROWS]]);
/// Float products of up to 16 rows with columns: `tile[column][row]`.
type RowsKernel<E> = unsafe fn(&[E], usize, &[f32], &mut [[f32; PANEL_ROWS]]);
type QuantizeKernel = unsafe fn(&[f32], &mut ColumnWriter);
type LayerNormKernel = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);
type AttendKernel<E> = unsafe fn(&Attention<'_, E>, &mut [f32], &mut [f32]);

struct PanelKernels {
    q4: PanelKernel,
    q8: PanelKernel,
    /// For more columns than a number, which share the work of unpacking the weights.
    q4_blocks: Option<(usize, BlocksKernel)>,
}

struct FloatKernels {
    rows_f32: RowsKernel<f32>,
    rows_f16: RowsKernel<u16>,
    rows_bf16: RowsKernel<u16>,
    quantize: QuantizeKernel,
    layer_norm: LayerNormKernel,
    gelu: unsafe fn(&mut [f32]),
    narrow: unsafe fn(&[f32], &mut [u16]),
    narrow_q8: unsafe fn(&[f32], f32, &mut [i8]),
    attend_f32: AttendKernel<f32>,
    attend_f16: AttendKernel<u16>,
    attend_q8: AttendKernel<i8>,
}

/// The kernels of one instruction set. A value exists only where the machine can run them.
pub struct Kernels {
    isa: Isa,
    panels: PanelKernels,
    float: FloatKernels,
}

static SCALAR: Kernels = Kernels { isa: Isa::Scalar, panels: scalar::PANELS, float: scalar::FLOAT };

impl Kernels {
    fn table(isa: Isa) -> Option<&'static Kernels> {
        match isa {
            Isa::Scalar => Some(&SCALAR),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(&x86_64::AVX2),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Some(x86_64::avx_vnni()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bw => Some(&x86_64::AVX512BW),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Some(&x86_64::AVX512VNNI),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Some(&x86_64::AMX),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(&aarch64::NEON),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => Some(&aarch64::NEON_DOTPROD),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => Some(&aarch64::NEON_I8MM),
            _ => None,
        }
    }

    /// The kernels of an instruction set, if this machine can run it.
    pub fn for_isa(isa: Isa) -> Option<&'static Kernels> {
        if isa.is_available() { Self::table(isa) } else { None }
    }

    /// The kernels of every instruction set that this machine can run, slowest first.
    pub fn all() -> impl Iterator<Item = &'static Kernels> {
        Isa::ALL.into_iter().filter_map(Self::for_isa)
    }

    /// The kernels of [`Isa::choose`].
    ///
    /// # Errors
    /// As that function.
    pub fn choose() -> Result<&'static Kernels> {
        Ok(Self::for_isa(Isa::choose()?).unwrap_or(&SCALAR))
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Products of panel `panel` of `weights` with columns: `tile[c][r]` = row `16 panel + r` . column `c`. Rows
    /// beyond the matrix are 0 or left alone.
    ///
    /// # Panics
    /// If the widths differ, the weights are quantized and the columns are not, or the tile has not one entry for
    /// each column.
    pub fn multiply_panel(
        &self,
        weights: Weights<'_>,
        panel: usize,
        input: &InputTile<'_>,
        tile: &mut [[f32; PANEL_ROWS]],
    ) {
        let (data, columns, kind) = (weights.panel(panel), weights.columns(), weights.kind());
        assert_eq!(columns, input.width, "width of the input");
        assert_eq!(tile.len(), input.columns);
        if kind.is_quantized() {
            assert_eq!(data.len(), kind.panel_bytes(columns));
            return self.multiply_quantized(kind, data, input.blocks(), tile);
        }
        let blocks = tile.chunks_mut(BLOCK_COLUMNS).zip(input.floats.chunks(BLOCK_COLUMNS * columns));
        for (tile, input) in blocks {
            match kind {
                // SAFETY: the instruction set is available (`for_isa`); the routine is safe code.
                WeightType::F32 => unsafe {
                    (self.float.rows_f32)(bytemuck::cast_slice(data), columns, input, tile)
                },
                // SAFETY: as above.
                WeightType::F16 => unsafe {
                    (self.float.rows_f16)(bytemuck::cast_slice(data), columns, input, tile)
                },
                // SAFETY: as above.
                _ => unsafe { (self.float.rows_bf16)(bytemuck::cast_slice(data), columns, input, tile) },
            }
        }
    }

    /// Products of a panel of quantized weights; the panel and the tile fit the blocks.
    fn multiply_quantized(
        &self,
        kind: WeightType,
        panel: &[u8],
        blocks: &[QuantizedBlock<'_>],
        tile: &mut [[f32; PANEL_ROWS]],
    ) {
        assert_eq!(blocks.iter().map(|block| block.columns).sum::<usize>(), tile.len(), "quantized columns");
        match self.panels.q4_blocks {
            // SAFETY: the instruction set is available (`for_isa`). The panel has the records of the input's width, as
            // the caller checked; the blocks' slices have the lengths of their columns and spans
            // (`Activations::block`), all but the last have 16 columns, and together they fill the tile.
            Some((columns, kernel)) if kind == WeightType::Q4 && tile.len() > columns => unsafe {
                kernel(panel, blocks, tile);
            },
            _ => {
                let kernel = if kind == WeightType::Q4 { self.panels.q4 } else { self.panels.q8 };
                for (block, tile) in blocks.iter().zip(tile.chunks_mut(BLOCK_COLUMNS)) {
                    // SAFETY: as above.
                    unsafe { kernel(panel, *block, tile) };
                }
            }
        }
    }

    /// Quantizes one column.
    fn quantize(&self, input: &[f32], output: &mut ColumnWriter) {
        // SAFETY: the instruction set is available (`for_isa`); the routine is otherwise safe code.
        unsafe { (self.float.quantize)(input, output) }
    }

    /// LayerNorm with bias over one column.
    pub fn layer_norm(&self, input: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, output: &mut [f32]) {
        let n = input.len();
        assert!(weight.len() == n && bias.len() == n && output.len() == n && n > 0);
        // SAFETY: as `quantize`.
        unsafe { (self.float.layer_norm)(input, weight, bias, epsilon, output) }
    }

    /// Exact GELU in place.
    pub fn gelu(&self, values: &mut [f32]) {
        // SAFETY: as `quantize`.
        unsafe { (self.float.gelu)(values) }
    }
}
