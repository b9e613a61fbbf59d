//! Writes a model file, tensor by tensor.

use std::collections::HashMap;
use std::io::{Seek, Write};

use cinderblock::unstable::model::{Header, Role, TensorSpec};
use cinderblock::unstable::quant::{PANEL_ROWS, WeightType, Weights, pack_floats, pack_panel};
use cinderblock::{Error, Result};
use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::interrupt;

/// Bytes of floats that are read, converted and written at a time.
const CHUNK_BYTES: usize = 16 << 20;

/// What a file is made of.
pub struct Source<'a> {
    pub checkpoint: &'a Checkpoint,
    pub specs: &'a [TensorSpec],
    pub types: &'a [WeightType],
    /// Tensors that are rounded already.
    pub ready: &'a HashMap<String, Vec<u8>>,
    /// How the types were chosen.
    pub recipe: &'a str,
    /// What it was calibrated on.
    pub calibration: Option<&'a str>,
}

/// The largest magnitude that a type holds.
fn largest(kind: WeightType) -> f32 {
    match kind {
        WeightType::F16 => half::f16::MAX.to_f32(),
        // A scale is an f16 and a weight at most 127.
        WeightType::Q8 => 127.0 * half::f16::MAX.to_f32(),
        WeightType::Q4 => f32::MAX / 128.0 * 127.0,
        WeightType::Bf16 => half::bf16::MAX.to_f32(),
        WeightType::F32 => f32::MAX,
    }
}

impl Source<'_> {
    /// Writes everything. `done` gets the weights of every piece that is written; the answer is the output, its
    /// bytes, and of each tensor the squared error of its weights relative to their squares, if `measure`.
    pub fn write<W: Write + Seek>(
        &self,
        output: W,
        measure: bool,
        io: impl Fn(std::io::Error) -> Error,
        mut done: impl FnMut(usize),
    ) -> Result<(W, u64, Vec<f64>)> {
        let tensors: Vec<_> = self.specs.iter().zip(self.types.iter().copied()).collect();
        let header = Header {
            config: &self.checkpoint.config,
            alignment_reason: Some(&self.checkpoint.alignment_reason),
            tensors: &tensors,
            tokenizer: self.checkpoint.tokenizer.as_deref(),
            end_token: self.checkpoint.end_token,
            recipe: self.recipe,
            calibration: self.calibration,
        };
        let mut writer = header.begin(output).map_err(&io)?;
        let mut errors = Vec::new();
        for (spec, kind) in self.specs.iter().zip(self.types) {
            writer.begin_tensor().map_err(&io)?;
            let mut write = |bytes: &[u8]| writer.write(bytes).map_err(&io);
            // A tensor that was rounded to another type is not ready.
            let ready =
                self.ready.get(&spec.name).filter(|bytes| bytes.len() as u64 == spec.describe(*kind).bytes());
            match ready {
                Some(bytes) if !measure => {
                    write(bytes)?;
                    done(spec.rows * spec.width);
                    errors.push(0.0);
                }
                _ => errors.push(self.tensor(spec, *kind, ready, measure, &mut write, &mut done)?),
            }
            writer.end_tensor();
        }
        let (output, bytes) = writer.finish().map_err(&io)?;
        Ok((output, bytes, errors))
    }

    /// Refuses a value that would become infinite, or be cut off.
    fn check_range(&self, spec: &TensorSpec, kind: WeightType, first: usize, floats: &[f32]) -> Result<()> {
        let beyond = floats.iter().position(|value| value.abs() > largest(kind));
        let Some(at) = beyond else { return Ok(()) };
        let (value, (name, element)) = (floats[at], self.checkpoint.origin(spec, first + at));
        let able: Vec<&str> = WeightType::ALL
            .into_iter()
            .filter(|k| value.abs() <= largest(*k))
            .map(WeightType::name)
            .collect();
        Err(Error::mismatch(
            format!("tensor {name:?}, element {element}"),
            value,
            format!(
                "at most {} in {kind}; types that hold it: {} (--tensor-type '{}=TYPE')",
                largest(kind),
                able.join(", "),
                spec.name
            ),
        ))
    }

    /// Streams one tensor: reads whole panels of rows, converts them on all cores, writes them.
    fn tensor(
        &self,
        spec: &TensorSpec,
        kind: WeightType,
        ready: Option<&Vec<u8>>,
        measure: bool,
        write: &mut dyn FnMut(&[u8]) -> Result<()>,
        done: &mut dyn FnMut(usize),
    ) -> Result<f64> {
        let panels = (CHUNK_BYTES / (4 * spec.width * PANEL_ROWS)).max(1);
        let kind = if spec.role == Role::Vector { WeightType::F32 } else { kind };
        let (mut raw, mut floats, mut packed) = (Vec::new(), Vec::new(), Vec::new());
        let (mut error, mut energy) = (0.0, 0.0);
        for first in (0..spec.rows).step_by(panels * PANEL_ROWS) {
            interrupt::check()?;
            let rows = (panels * PANEL_ROWS).min(spec.rows - first);
            self.checkpoint.read_rows(spec, first, rows, &mut raw, &mut floats)?;
            self.check_range(spec, kind, first * spec.width, &floats)?;
            packed.clear();
            if let Some(ready) = ready {
                let start = first / PANEL_ROWS * kind.panel_bytes(spec.width);
                let bytes = kind.matrix_bytes(rows, spec.width).unwrap_or_default();
                packed.extend_from_slice(&ready[start..start + bytes]);
            } else if kind.is_quantized() {
                let panels = floats.par_chunks(PANEL_ROWS * spec.width).map(|rows| {
                    let mut packed = Vec::with_capacity(kind.panel_bytes(spec.width));
                    pack_panel(kind, rows, spec.width, &mut packed);
                    packed
                });
                panels.collect::<Vec<_>>().iter().for_each(|panel| packed.extend_from_slice(panel));
            } else {
                pack_floats(kind, &floats, &mut packed);
            }
            write(&packed)?;
            if let Some(weights) = Weights::new(kind, rows, spec.width, &packed).filter(|_| measure) {
                let mut row = vec![0.0; spec.width];
                for (at, exact) in floats.chunks_exact(spec.width).enumerate() {
                    weights.row(at, &mut row);
                    for (value, exact) in row.iter().zip(exact) {
                        error += f64::from(value - exact).powi(2);
                        energy += f64::from(*exact).powi(2);
                    }
                }
            }
            done(rows * spec.width);
        }
        Ok(if energy > 0.0 { error / energy } else { 0.0 })
    }
}
