//! Readers of input as functions of bytes and files, for the fuzz targets and the tests of their seeds. They change
//! without notice.

use std::path::Path;

use cinderblock::Result;
use cinderblock::unstable::model::{TensorSpec, tensors};
use cinderblock::unstable::quant::WeightType;

pub use crate::checkpoint::unstable::{part_config, safetensors, trainer_config, yaml};
pub use crate::constraint::{Constraints, Form};
pub use crate::npy::header as npy_header;
pub use crate::prompt::Prompt;
pub use crate::scoring::{Score, Scoring};
pub use crate::verbs::batch::unstable::{batch, journal};

use crate::checkpoint::{Checkpoint, CheckpointOptions};
use crate::quantize::{self, Rule};

/// Rows of a tensor that are read at a time.
const ROWS: usize = 64;

/// Opens the checkpoint in a folder and reads every tensor that a model needs.
pub fn checkpoint(folder: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(folder, &CheckpointOptions::default(), &|_| Ok(()))?;
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    let specs = tensors(&checkpoint.config);
    for spec in &specs {
        checkpoint.check(spec)?;
    }
    for spec in &specs {
        for first in (0..spec.rows).step_by(ROWS) {
            let rows = ROWS.min(spec.rows - first);
            checkpoint.read_rows(spec, first, rows, &mut bytes, &mut values)?;
        }
        let _ = checkpoint.origin(spec, 0);
    }
    let _ = (checkpoint.unused(&specs), checkpoint.files().count());
    Ok(())
}

/// Reads a recipe and applies it to tensors.
pub fn recipe(path: &Path, specs: &[TensorSpec]) -> Result<()> {
    quantize::recipe(WeightType::Q4, specs, &Rule::read(path)?).map(drop)
}

/// Reads the header of a NumPy file: rows and columns.
pub fn npy(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    crate::npy::read_header(&mut &*bytes)
}
