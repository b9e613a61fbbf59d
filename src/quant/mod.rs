//! How weights lie in memory: plain rows of floats, or quantized panels in the order in which the kernels
//! read them. The code here is scalar and plain; it is the oracle of the kernels.

#![forbid(unsafe_code)]

mod pack;
mod panel;
mod round;

pub use pack::{pack_groups, pack_panel};
pub use panel::{GROUP, PANEL_ROWS, Q4_RECORD, Q4_SCALES, Q8_RECORD, SPAN, panel_scale, panel_weight};
pub use round::{
    Rounded, ZERO_LEVELS, likely_zero, multiplier_limit, reaching_scale, round_q8, round_row, row_scale,
};

use byteorder::{ByteOrder, LE};
use half::{bf16, f16};

/// The types a weight matrix can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// Panels of 4-bit integers with a multiplier and a zero level per 32 inputs and a scale a row: 4.27 bits a
    /// weight with a width of 2048.
    Q4,
    /// Panels of 8-bit integers with an f16 scale per 32 inputs: 8.5 bits a weight.
    Q8,
    /// Rows of bfloat16: the upper 16 bits of an f32.
    Bf16,
    /// Rows of f16.
    F16,
    /// Rows of f32.
    F32,
}

impl WeightType {
    /// Every type, smallest first.
    pub const ALL: [WeightType; 5] =
        [WeightType::Q4, WeightType::Q8, WeightType::Bf16, WeightType::F16, WeightType::F32];

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        ["q4", "q8", "bf16", "f16", "f32"][self as usize]
    }

    /// The type with a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether the weights are integers in panels, which are multiplied by quantized activations.
    pub fn is_quantized(self) -> bool {
        matches!(self, WeightType::Q4 | WeightType::Q8)
    }

    /// Bytes of one float of a type that is not quantized.
    fn float_bytes(self) -> usize {
        if self == WeightType::F32 { 4 } else { 2 }
    }

    /// Bytes of 16 rows of `width` weights, `usize::MAX` if they are more. The last panel of a float matrix holds
    /// only the rows there are.
    pub fn panel_bytes(self, width: usize) -> usize {
        let bytes = if self.is_quantized() {
            panel::quantized_panel_bytes(self, width)
        } else {
            width.checked_mul(PANEL_ROWS * self.float_bytes())
        };
        bytes.unwrap_or(usize::MAX)
    }

    /// Width of a quantized panel with the padding of its last record.
    pub(crate) fn stored_width(self, panel: &[u8]) -> usize {
        panel::stored_width(self, panel)
    }

    /// Bytes of a matrix `[rows, width]`; `None` when that overflows.
    pub fn matrix_bytes(self, rows: usize, width: usize) -> Option<usize> {
        if self.is_quantized() {
            return rows.div_ceil(PANEL_ROWS).checked_mul(panel::quantized_panel_bytes(self, width)?);
        }
        rows.checked_mul(width)?.checked_mul(self.float_bytes())
    }
}

impl std::fmt::Display for WeightType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A weight matrix `[rows, width]`: row `r` holds the weights of output `r`.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    kind: WeightType,
    rows: usize,
    width: usize,
    data: &'a [u8],
}

impl<'a> Weights<'a> {
    /// A view of `data` as a matrix; `None` unless its length is exactly that of the shape.
    pub fn new(kind: WeightType, rows: usize, width: usize, data: &'a [u8]) -> Option<Self> {
        (kind.matrix_bytes(rows, width) == Some(data.len())).then_some(Weights { kind, rows, width, data })
    }

    /// Type of the weights.
    pub fn kind(&self) -> WeightType {
        self.kind
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All bytes.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Number of panels of 16 rows.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// The bytes of panel `index`.
    pub fn panel(&self, index: usize) -> &'a [u8] {
        let bytes = self.kind.panel_bytes(self.width);
        let start = index * bytes;
        &self.data[start..self.data.len().min(start + bytes)]
    }

    /// Writes row `row` into `output` (`[width]`) as floats.
    ///
    /// # Panics
    /// If the row does not exist or `output` has another length.
    pub fn row(&self, row: usize, output: &mut [f32]) {
        assert!(row < self.rows && output.len() == self.width);
        if self.kind.is_quantized() {
            let panel = self.panel(row / PANEL_ROWS);
            return panel::unpack_row(self.kind, panel, row % PANEL_ROWS, output);
        }
        let size = self.kind.float_bytes();
        let bytes = &self.data[row * self.width * size..][..self.width * size];
        for (value, bytes) in output.iter_mut().zip(bytes.chunks_exact(size)) {
            *value = match self.kind {
                WeightType::F32 => LE::read_f32(bytes),
                WeightType::F16 => f16::from_bits(LE::read_u16(bytes)).to_f32(),
                _ => bf16::from_bits(LE::read_u16(bytes)).to_f32(),
            };
        }
    }
}

/// Converts `values` to a float type, appending the bytes to `output`.
///
/// # Panics
/// If the type is quantized.
pub fn pack_floats(kind: WeightType, values: &[f32], output: &mut Vec<u8>) {
    match kind {
        WeightType::F32 => values.iter().for_each(|v| output.extend(v.to_le_bytes())),
        WeightType::F16 => values.iter().for_each(|v| output.extend(f16::from_f32(*v).to_le_bytes())),
        WeightType::Bf16 => values.iter().for_each(|v| output.extend(bf16::from_f32(*v).to_le_bytes())),
        WeightType::Q4 | WeightType::Q8 => panic!("{kind} is not a float type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in WeightType::ALL {
            assert_eq!(WeightType::from_name(kind.name()), Some(kind));
        }
    }

    #[test]
    fn sizes_are_those_of_the_design() {
        assert_eq!(WeightType::Q4.matrix_bytes(16, 128), Some(18 * 64));
        assert_eq!(WeightType::Q8.matrix_bytes(17, 65), Some(4 * 17 * 64));
        assert_eq!(WeightType::Bf16.matrix_bytes(3, 5), Some(30));
        assert_eq!(WeightType::F32.matrix_bytes(usize::MAX, 2), None);
    }

    #[test]
    fn float_rows_read_back() {
        let values: Vec<f32> = (0..15).map(|i| i as f32 - 7.5).collect();
        for kind in [WeightType::F32, WeightType::F16, WeightType::Bf16] {
            let mut bytes = Vec::new();
            pack_floats(kind, &values, &mut bytes);
            let weights = Weights::new(kind, 3, 5, &bytes).unwrap();
            let mut row = [0.0; 5];
            weights.row(2, &mut row);
            assert_eq!(row, values[10..]);
        }
    }
}
