//! What quantizing gave, for people and as JSON.

use std::path::Path;
use std::time::Instant;

use cinderblock::Result;
use cinderblock::unstable::model::{Role, TensorSpec};
use cinderblock::unstable::quant::WeightType;
use serde_json::json;

use super::budget;
use crate::calibration::Finding;
use crate::checkpoint::Checkpoint;
use crate::output;

/// Text from a file or its name, without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// One line a matrix: where the bits went, and what they left out.
pub fn report(
    specs: &[TensorSpec],
    types: &[WeightType],
    errors: &[f64],
    findings: &[Finding],
) -> Vec<serde_json::Value> {
    let total: u64 = budget::bits(specs, types);
    let matrices = specs.iter().zip(types).zip(errors).filter(|((spec, _), _)| spec.role != Role::Vector);
    matrices
        .map(|((spec, kind), error)| {
            let bytes = spec.describe(*kind).bytes();
            let mut row = json!({
                "name": spec.name,
                "type": kind.name(),
                "weights": spec.rows * spec.width,
                "bytes": bytes,
                "share": 8.0 * bytes as f64 / total as f64,
                "weight_error": error,
            });
            if let Some(finding) = findings.iter().find(|finding| finding.name == spec.name) {
                row["rounding"] = json!(finding.method);
                row["output_error"] = json!(finding.error);
                row["output_error_nearest"] = json!(finding.nearest_error);
            }
            row
        })
        .collect()
}

/// What was written, by type.
pub struct Summary {
    rows: Vec<(WeightType, usize, usize, u64)>,
    bytes: u64,
    unused: usize,
    /// Where everything was found, and what was inferred.
    notes: Vec<(&'static str, String)>,
    /// One object a matrix, if a report was asked for.
    pub tensors: Vec<serde_json::Value>,
}

impl Summary {
    /// Of a file of `bytes`, written or predicted.
    pub fn new(specs: &[TensorSpec], types: &[WeightType], bytes: u64, checkpoint: &Checkpoint) -> Summary {
        let rows = WeightType::ALL.into_iter().filter_map(|kind| {
            let of_kind = || specs.iter().zip(types).filter(move |(_, k)| **k == kind).map(|(spec, _)| spec);
            let weights = of_kind().map(|spec| spec.rows * spec.width).sum();
            let stored = of_kind().map(|spec| spec.describe(kind).bytes()).sum();
            (weights > 0).then(|| (kind, of_kind().count(), weights, stored))
        });
        Summary {
            rows: rows.collect(),
            bytes,
            unused: checkpoint.unused(specs).len(),
            notes: checkpoint.notes.clone(),
            tensors: Vec::new(),
        }
    }

    fn total(&self) -> (usize, usize, u64) {
        self.rows.iter().fold((0, 0, 0), |sum, row| (sum.0 + row.1, sum.1 + row.2, sum.2 + row.3))
    }

    /// Prints it for people; `path` is `None` if nothing was written.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn print(&self, path: Option<&Path>, started: Instant) -> Result<()> {
        let mut text = String::new();
        for (label, note) in &self.notes {
            text += &format!("{label:14} {}\n", plain(note));
        }
        text += &self.tensors_text();
        text += &format!(
            "{:6} {:>8} {:>14} {:>14} {:>13}\n",
            "type", "tensors", "weights", "bytes", "bits a weight"
        );
        let (tensors, weights, stored) = self.total();
        let total = ("total", tensors, weights, stored);
        let rows = self.rows.iter().map(|row| (row.0.name(), row.1, row.2, row.3));
        for (name, tensors, weights, stored) in rows.chain([total]) {
            let bits = 8.0 * stored as f64 / weights as f64;
            text += &format!("{name:6} {tensors:>8} {weights:>14} {stored:>14} {bits:>13.3}\n");
        }
        let bytes = output::bytes(self.bytes);
        let unused = format!("left out {} tensors that inference does not use", self.unused);
        text += &match path {
            Some(path) => {
                let path = plain(&path.display().to_string());
                format!("{path}: {bytes} in {:.1} s; {unused}\n", started.elapsed().as_secs_f64())
            }
            None => format!("nothing written: the file would have about {bytes}; {unused}\n"),
        };
        output::print(&text)
    }

    /// The report for people: errors are squared and relative, in thousandths.
    fn tensors_text(&self) -> String {
        if self.tensors.is_empty() {
            return String::new();
        }
        let mut text = format!(
            "{:46} {:5} {:>7} {:>9} {:>9} {:>9}\n",
            "tensor (errors squared, in thousandths)", "type", "bytes %", "weights", "nearest", "outputs"
        );
        for row in &self.tensors {
            let number = |key: &str, scale: f64| {
                row[key].as_f64().map_or(String::new(), |value| format!("{:.3}", scale * value))
            };
            text += &format!(
                "{:46} {:5} {:>7} {:>9} {:>9} {:>9}\n",
                row["name"].as_str().unwrap_or_default(),
                row["type"].as_str().unwrap_or_default(),
                number("share", 100.0),
                number("weight_error", 1e3),
                number("output_error_nearest", 1e3),
                number("output_error", 1e3),
            );
        }
        text + "\n"
    }

    /// The same as one object.
    pub fn json(&self, path: Option<&Path>, started: Instant) -> serde_json::Value {
        let (tensors, weights, stored) = self.total();
        let types: Vec<_> = self
            .rows
            .iter()
            .map(|(kind, tensors, weights, stored)| {
                json!({"type": kind.name(), "tensors": tensors, "weights": weights, "bytes": stored})
            })
            .collect();
        let mut summary = json!({
            "file": path.map(|path| path.display().to_string()),
            "bytes": self.bytes,
            "tensors": tensors,
            "weights": weights,
            "bits_per_weight": 8.0 * stored as f64 / weights as f64,
            "types": types,
            "unused_tensors": self.unused,
            "seconds": started.elapsed().as_secs_f64(),
        });
        for (label, note) in &self.notes {
            let key = label.replace(' ', "_");
            if *label == "inferred" {
                let lines = summary["source"][&key].as_array().cloned().unwrap_or_default();
                summary["source"][&key] = lines.into_iter().chain([json!(note)]).collect();
            } else {
                summary["source"][&key] = json!(note);
            }
        }
        if !self.tensors.is_empty() {
            summary["report"] = json!(self.tensors);
        }
        summary
    }
}
