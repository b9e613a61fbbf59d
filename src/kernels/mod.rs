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
mod product;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use activations::ColumnWriter;
pub use activations::{Activations, BLOCK_COLUMNS, QuantizedBlock};
pub use attention::{Attention, KeyValue, QUERIES, score_floats};
pub use isa::Isa;
pub use product::{Epilogue, Product, Term, multiply};

use crate::error::Result;
use crate::quant::{PANEL_ROWS, WeightType, Weights};

/// Floats that the generic routines handle at once; head dimensions in the cache are padded to it.
pub const LANES: usize = 16;

/// Products of a panel with a block of quantized columns: `tile[column][row]`.
type PanelKernel = unsafe fn(&[u8], QuantizedBlock<'_>, &mut [[f32; PANEL_ROWS]]);
/// Float products of up to 16 rows with columns: `tile[column][row]`.
type RowsKernel<E> = unsafe fn(&[E], usize, &[f32], &mut [[f32; PANEL_ROWS]]);
type QuantizeKernel = unsafe fn(&[f32], &mut ColumnWriter);
type LayerNormKernel = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);
type AttendKernel<E> = unsafe fn(&Attention<'_, E>, &mut [f32], &mut [f32]);

struct PanelKernels {
    q4: PanelKernel,
    q8: PanelKernel,
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

/// Gives back what a thread keeps between products. Called when it has nothing to do for a while.
pub(crate) fn rest() {
    #[cfg(target_arch = "x86_64")]
    x86_64::rest();
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

    /// Products of panel `panel` of `weights` with block `block` of the columns of `input`:
    /// `tile[c][r]` = row `16 panel + r` . column `16 block + c`. Rows beyond the matrix are 0 or left alone.
    ///
    /// # Panics
    /// If the widths differ, the block does not exist or the tile has not one entry for each of its columns.
    pub fn multiply_panel(
        &self,
        weights: Weights<'_>,
        panel: usize,
        input: &Activations,
        block: usize,
        tile: &mut [[f32; PANEL_ROWS]],
    ) {
        assert_eq!(weights.columns(), input.width(), "width of the input");
        let data = weights.panel(panel);
        let columns = weights.columns();
        let kind = weights.kind();
        if kind.is_quantized() {
            let input = input.block(block);
            assert_eq!(tile.len(), input.columns);
            assert_eq!(data.len(), kind.panel_bytes(columns));
            let kernel = if kind == WeightType::Q4 { self.panels.q4 } else { self.panels.q8 };
            // SAFETY: the instruction set is available (`for_isa`). The panel has the records of the input's
            // width, for `Weights::panel` gives all of a panel and the widths are equal; the block's slices
            // have the lengths of its columns and spans (`Activations::block`), and so has the tile.
            return unsafe { kernel(data, input, tile) };
        }
        let input = input.floats(block * BLOCK_COLUMNS, tile.len());
        // SAFETY, for all three: the instruction set is available (`for_isa`); the routine is safe code.
        match kind {
            WeightType::F32 => unsafe {
                (self.float.rows_f32)(bytemuck::cast_slice(data), columns, input, tile)
            },
            WeightType::F16 => unsafe {
                (self.float.rows_f16)(bytemuck::cast_slice(data), columns, input, tile)
            },
            _ => unsafe { (self.float.rows_bf16)(bytemuck::cast_slice(data), columns, input, tile) },
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
