//! The table of functions of one instruction set, and the safe entry point to them: lengths are checked here, once per
//! call, in every build.

use super::isa::Isa;
use super::operands::{Attention, ColumnTile, ColumnWriter, PanelInput, RowAttention, TILE_COLUMNS};
use crate::quant::{PANEL_ROWS, WeightType, Weights};

/// Products of a panel with a tile of quantized columns: `output[column][row]`.
///
/// # Safety
/// The instruction set is available. The panel has the records of a matrix as wide as the tile; the tile's slices and
/// the output have the lengths of its spans and columns.
pub(super) type PanelKernel = unsafe fn(&[u8], ColumnTile<'_>, &mut [[f32; PANEL_ROWS]]);
/// The same with several tiles, one after the other in the output; all but the last have 16 columns.
pub(super) type TilesKernel = unsafe fn(&[u8], &[ColumnTile<'_>], &mut [[f32; PANEL_ROWS]]);
/// Float products of up to 16 rows of a width with columns: `output[column][row]`.
pub(super) type RowsKernel<E> = unsafe fn(&[E], usize, &[f32], &mut [[f32; PANEL_ROWS]]);
pub(super) type QuantizeKernel = unsafe fn(&[f32], &mut ColumnWriter);
pub(super) type LayerNormKernel = unsafe fn(&[f32], &[f32], &[f32], f32, &mut [f32]);
pub(super) type AttendKernel<E> = unsafe fn(&Attention<'_, E>, &mut [f32], &mut [f32]);

/// Products with quantized weights.
pub(super) struct PanelKernels {
    pub(super) q4: PanelKernel,
    pub(super) q8: PanelKernel,
    /// For more columns than a number, which share the work of unpacking the weights.
    pub(super) q4_tiles: Option<(usize, TilesKernel)>,
    /// The same for q8.
    pub(super) q8_tiles: Option<(usize, TilesKernel)>,
}

/// Compiles `multiply::<Q4>` of an instruction set for both types, as `q4` and `q8`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! quantized_kernels {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn q4(panel: &[u8], input: ColumnTile<'_>, output: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<true>(panel, input, output) }
        }

        #[target_feature(enable = $features)]
        unsafe fn q8(panel: &[u8], input: ColumnTile<'_>, output: &mut [[f32; PANEL_ROWS]]) {
            // SAFETY: the caller's promise is passed on.
            unsafe { multiply::<false>(panel, input, output) }
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use quantized_kernels;

/// Everything else. Safe but for the instruction set, which must be available.
pub(super) struct FloatKernels {
    pub(super) rows_f32: RowsKernel<f32>,
    pub(super) rows_f16: RowsKernel<u16>,
    pub(super) rows_bf16: RowsKernel<u16>,
    pub(super) quantize: QuantizeKernel,
    pub(super) layer_norm: LayerNormKernel,
    pub(super) rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub(super) gelu: unsafe fn(&mut [f32]),
    pub(super) gelu_tanh: unsafe fn(&mut [f32]),
    pub(super) f32_to_f16: unsafe fn(&[f32], &mut [u16]),
    pub(super) f32_to_q8: unsafe fn(&[f32], f32, &mut [i8]),
    pub(super) attend_f32: AttendKernel<f32>,
    pub(super) attend_f16: AttendKernel<u16>,
    pub(super) attend_q8: AttendKernel<i8>,
    pub(super) attend_rows: unsafe fn(&RowAttention<'_>, &mut [f32]),
}

/// The function between the two products of a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Exact GELU, by the error function.
    Gelu,
    /// GELU by the hyperbolic tangent.
    GeluTanh,
    /// 0 for negative values.
    Relu,
}

impl Activation {
    /// All of them.
    pub const ALL: [Activation; 3] = [Activation::Gelu, Activation::GeluTanh, Activation::Relu];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Relu => "relu",
        }
    }

    /// The activation with a name.
    pub fn from_name(name: &str) -> Option<Activation> {
        Self::ALL.into_iter().find(|activation| activation.name() == name)
    }
}

/// The kernels of one instruction set. A value exists only where the machine can run them.
pub struct Kernels {
    pub(super) isa: Isa,
    pub(super) panels: PanelKernels,
    pub(super) float: FloatKernels,
}

impl Kernels {
    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Products of panel `panel` of `weights` with columns: `output[c][r]` = row `16 panel + r` . column `c`. Rows
    /// beyond the matrix are 0 or left alone.
    ///
    /// # Panics
    /// If the widths differ, the weights are quantized and the columns are not, or the output has not one entry for
    /// each column.
    pub(super) fn multiply_panel(
        &self,
        weights: Weights<'_>,
        panel: usize,
        input: &PanelInput<'_>,
        output: &mut [[f32; PANEL_ROWS]],
    ) {
        let (data, width, kind) = (weights.panel(panel), weights.width(), weights.kind());
        assert_eq!(width, input.width, "width of the input");
        assert_eq!(output.len(), input.columns);
        if kind.is_quantized() {
            assert_eq!(data.len(), kind.panel_bytes(width));
            return self.multiply_quantized(kind, data, input.tiles(), output);
        }
        let tiles = output.chunks_mut(TILE_COLUMNS).zip(input.floats.chunks(TILE_COLUMNS * width));
        for (output, input) in tiles {
            match kind {
                // SAFETY: the instruction set is available (`for_isa`); the routine is safe code.
                WeightType::F32 => unsafe {
                    (self.float.rows_f32)(bytemuck::cast_slice(data), width, input, output)
                },
                // SAFETY: as above.
                WeightType::F16 => unsafe {
                    (self.float.rows_f16)(bytemuck::cast_slice(data), width, input, output)
                },
                // SAFETY: as above.
                _ => unsafe { (self.float.rows_bf16)(bytemuck::cast_slice(data), width, input, output) },
            }
        }
    }

    /// Products of a panel of quantized weights; the panel and the output fit the tiles.
    fn multiply_quantized(
        &self,
        kind: WeightType,
        panel: &[u8],
        tiles: &[ColumnTile<'_>],
        output: &mut [[f32; PANEL_ROWS]],
    ) {
        assert_eq!(tiles.iter().map(|tile| tile.columns).sum::<usize>(), output.len(), "quantized columns");
        let shared = if kind == WeightType::Q4 { self.panels.q4_tiles } else { self.panels.q8_tiles };
        match shared {
            // SAFETY: the instruction set is available (`for_isa`). The panel has the records of the input's width, as
            // the caller checked; the tiles' slices have the lengths of their columns and spans
            // (`Activations::column_tile`), all but the last have 16 columns, and together they fill the output.
            Some((columns, kernel)) if output.len() > columns => unsafe {
                kernel(panel, tiles, output);
            },
            _ => {
                let kernel = if kind == WeightType::Q4 { self.panels.q4 } else { self.panels.q8 };
                for (tile, output) in tiles.iter().zip(output.chunks_mut(TILE_COLUMNS)) {
                    // SAFETY: as above.
                    unsafe { kernel(panel, *tile, output) };
                }
            }
        }
    }

    /// Quantizes one column.
    pub(super) fn quantize(&self, input: &[f32], output: &mut ColumnWriter) {
        // SAFETY: the instruction set is available (`for_isa`); the routine is otherwise safe code.
        unsafe { (self.float.quantize)(input, output) }
    }

    /// LayerNorm with bias over one column.
    ///
    /// # Panics
    /// If lengths differ or are 0.
    pub fn layer_norm(&self, input: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, output: &mut [f32]) {
        let n = input.len();
        assert!(weight.len() == n && bias.len() == n && output.len() == n && n > 0);
        // SAFETY: as `quantize`.
        unsafe { (self.float.layer_norm)(input, weight, bias, epsilon, output) }
    }

    /// RMSNorm over one column.
    ///
    /// # Panics
    /// If lengths differ or are 0.
    pub fn rms_norm(&self, input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
        let n = input.len();
        assert!(weight.len() == n && output.len() == n && n > 0);
        // SAFETY: as `quantize`.
        unsafe { (self.float.rms_norm)(input, weight, epsilon, output) }
    }

    /// Attention of one query to a few rows: `output = softmax(query . keys x scale + bias) . values`, `[width]`.
    ///
    /// # Panics
    /// If lengths disagree, or there are no rows.
    pub fn attend_rows(&self, attention: &RowAttention<'_>, output: &mut [f32]) {
        let RowAttention { query, keys, values, stride, rows, bias, .. } = attention;
        let width = query.len();
        assert!(width > 0 && width <= *stride && output.len() == width && *rows > 0);
        assert!(keys.len().min(values.len()) >= (rows - 1) * stride + width);
        assert!(bias.is_empty() || bias.len() == *rows);
        // SAFETY: as `quantize`.
        unsafe { (self.float.attend_rows)(attention, output) }
    }

    /// An activation function in place.
    pub fn activate(&self, activation: Activation, values: &mut [f32]) {
        match activation {
            // SAFETY: as `quantize`.
            Activation::Gelu => unsafe { (self.float.gelu)(values) },
            // SAFETY: as `quantize`.
            Activation::GeluTanh => unsafe { (self.float.gelu_tanh)(values) },
            // Not `max`, which would hide values that are no numbers.
            Activation::Relu => {
                values.iter_mut().for_each(|value| *value = if *value < 0.0 { 0.0 } else { *value });
            }
        }
    }
}
