//! The panel: 16 rows of a quantized matrix, as a sequence of records.
//!
//! ```text
//! q8 panel    = [record of 64 inputs] ...
//! record      = [scale line] [weight line 0] ... [weight line 15]
//! scale line  = 16 f16 scales of inputs 0..32 | 16 f16 scales of inputs 32..64          64 bytes
//! q8 line j   = [row 0: inputs 4j..4j+4] [row 1: 4j..4j+4] ... [row 15]                  64 bytes
//!
//! q4 panel    = [16 f32 scales, one a row] [record of 128 inputs] ...
//! record      = [multiplier line] [weight line 0] ... [weight line 15]
//! multipliers = [row 0] ... [row 15] of inputs 0..32 | of 32..64 | of 64..96 | of 96..128   64 bytes
//! q4 line j   = q8 line 2j in the low nibbles, q8 line 2j + 1 in the high ones            64 bytes
//! ```
//!
//! A q8 weight is `scale * (byte - 128)`, a q4 weight `scale * (m * (nibble - z))`, where the low nibble of a multiplier
//! byte is `m` and the high one `z`; `m * (nibble - z)` is within -127..=127. Integers alone connect the groups of a
//! record, so a kernel adds up 128 products before it turns a sum into a float: with a float scale for each 32 it
//! could not reach more than four fifths of the peak.
//!
//! A q8 line is one AVX-512 register, two AVX2 registers, four NEON registers and one row of an AMX tile; every
//! instruction set multiplies it by four broadcast activation bytes. Neighbouring lines share a q4 line, so that both
//! feed the accumulators of one group of 32 inputs and `zip1`/`zip2` of the two nibbles give the operands of `smmla`.
//! Rows and inputs beyond the matrix hold weight 0.

use half::f16;

use super::WeightType;

/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;
/// Inputs that share a scale in q8, a multiplier in q4.
pub const GROUP: usize = 32;
/// Inputs of a q4 record; activations are quantized with one scale for each span of this length.
pub const SPAN: usize = 128;
/// Inputs of a q8 record.
const Q8_INPUTS: usize = 64;
pub(super) const LINE: usize = 64;
/// Bytes in front of the records of a q4 panel: a scale for each row.
pub const Q4_SCALES: usize = LINE;
/// Bytes of a q4 record: a line of multipliers and 16 of weights.
pub const Q4_RECORD: usize = 17 * LINE;
/// Bytes of a q8 record: a line of scales and 16 of weights.
pub const Q8_RECORD: usize = 17 * LINE;

/// Bytes of a panel of `width` inputs; `None` if the type is not quantized or that overflows.
pub(super) fn quantized_panel_bytes(kind: WeightType, width: usize) -> Option<usize> {
    match kind {
        WeightType::Q4 => width.div_ceil(SPAN).checked_mul(Q4_RECORD)?.checked_add(Q4_SCALES),
        WeightType::Q8 => width.div_ceil(Q8_INPUTS).checked_mul(Q8_RECORD),
        _ => None,
    }
}

/// Width of a panel with the padding of its last record; 0 if the type is not quantized.
pub(super) fn stored_width(kind: WeightType, panel: &[u8]) -> usize {
    match kind {
        WeightType::Q4 => (panel.len() - Q4_SCALES) / Q4_RECORD * SPAN,
        WeightType::Q8 => panel.len() / Q8_RECORD * Q8_INPUTS,
        _ => 0,
    }
}

/// Byte within a panel of the scale of a row, for the group that holds input `k`.
pub(super) fn scale_at(kind: WeightType, lane: usize, k: usize) -> usize {
    match kind {
        WeightType::Q4 => lane * 4,
        _ => k / Q8_INPUTS * Q8_RECORD + (k % Q8_INPUTS / GROUP * PANEL_ROWS + lane) * 2,
    }
}

/// Byte within a q4 panel of the multiplier of a row, for the group that holds input `k`.
pub(super) fn multiplier_at(lane: usize, k: usize) -> usize {
    Q4_SCALES + k / SPAN * Q4_RECORD + k % SPAN / GROUP * PANEL_ROWS + lane
}

/// Byte within a panel, and shift within the byte, of a weight.
pub(super) fn weight_at(kind: WeightType, lane: usize, k: usize) -> (usize, u32) {
    match kind {
        WeightType::Q4 => {
            let line = k % SPAN / 4;
            let record = Q4_SCALES + k / SPAN * Q4_RECORD;
            (record + LINE + line / 2 * LINE + lane * 4 + k % 4, (line % 2 * 4) as u32)
        }
        _ => {
            let line = k % Q8_INPUTS / 4;
            (k / Q8_INPUTS * Q8_RECORD + LINE + line * LINE + lane * 4 + k % 4, 0)
        }
    }
}

/// The scale of row `lane` of a panel for the group that holds input `k`; in q4 it is the same for all of the row.
pub fn panel_scale(kind: WeightType, panel: &[u8], lane: usize, k: usize) -> f32 {
    let bytes = &panel[scale_at(kind, lane, k)..];
    match kind {
        WeightType::Q4 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        _ => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
    }
}

/// The integer weight of row `lane` of a panel for input `k`, multiplier included: -128 to 127.
pub fn panel_weight(kind: WeightType, panel: &[u8], lane: usize, k: usize) -> i32 {
    let (at, shift) = weight_at(kind, lane, k);
    match kind {
        WeightType::Q4 => {
            let multiplier = i32::from(panel[multiplier_at(lane, k)]);
            (multiplier & 15) * (i32::from(panel[at] >> shift & 15) - (multiplier >> 4))
        }
        _ => i32::from(panel[at]) - 128,
    }
}

/// Writes row `lane` of a panel into `output` as floats.
pub(super) fn unpack_row(kind: WeightType, panel: &[u8], lane: usize, output: &mut [f32]) {
    for (group, values) in output.chunks_mut(GROUP).enumerate() {
        let first = group * GROUP;
        let scale = panel_scale(kind, panel, lane, first);
        for (k, value) in values.iter_mut().enumerate() {
            *value = scale * panel_weight(kind, panel, lane, first + k) as f32;
        }
    }
}
