//! `quantize`: a checkpoint to one model file.

use std::path::{Path, PathBuf};
use std::time::Instant;

use cinderblock::error::{Error, Result};
use cinderblock::gguf::Writer;
use cinderblock::model::{
    CHECKSUMS_KEY, END_TOKEN_KEY, RECIPE_KEY, Role, TOKENIZER_KEY, TYPES_KEY, TensorSpec, tensors,
};
use cinderblock::quant::{PANEL_ROWS, WeightType, pack_floats, pack_panel};
use rayon::prelude::*;
use serde_json::json;

use crate::checkpoint::Checkpoint;
use crate::interrupt;
use crate::output::{self, AtomicFile};

/// Quantize a checkpoint folder into one model file
///
/// The folder holds config.yaml (the authors' trainer format), model.safetensors (or shards with
/// model.safetensors.index.json) and, if there is one, tokenizer.json.
///
/// Examples:
///   cinderblock quantize checkpoints/b4_300 -o b4_300.q4.gguf --type q4
///   cinderblock quantize checkpoints/b4_300 -o exact.gguf --type f32
///   cinderblock quantize checkpoints/b4_300 -o small.gguf --type q4 --tensor-type '*.head.weight=q4'
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// The folder of the checkpoint
    #[arg(value_name = "CHECKPOINT_DIR")]
    checkpoint: PathBuf,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Type of the matrices; q4 keeps the embedding tables and the vocabulary head in q8
    #[arg(long = "type", value_name = "TYPE", default_value = "q4", value_parser = WeightType::ALL.map(WeightType::name))]
    kind: String,

    /// Type of the tensors whose name matches; * stands for any text; may be repeated, the last match counts
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = Rule::parse)]
    tensor_type: Vec<Rule>,

    /// A name for the model [default: the name in config.yaml]
    #[arg(long)]
    name: Option<String>,

    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// A pattern of tensor names and the type that they get.
#[derive(Clone, Debug)]
pub struct Rule {
    pattern: String,
    kind: WeightType,
}

impl Rule {
    pub fn parse(text: &str) -> std::result::Result<Rule, String> {
        let (pattern, kind) = text.rsplit_once('=').ok_or("expected PATTERN=TYPE")?;
        let names = WeightType::ALL.map(WeightType::name).join(", ");
        let kind =
            WeightType::from_name(kind).ok_or(format!("found type {kind:?}, expected one of {names}"))?;
        Ok(Rule { pattern: pattern.to_string(), kind })
    }

    fn matches(&self, name: &str) -> bool {
        matches(&self.pattern, name)
    }
}

/// Whether a name matches a pattern in which `*` stands for any text: each piece is found as early as possible.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*') {
        match name.find(piece) {
            Some(at) => name = &name[at + piece.len()..],
            None => return false,
        }
    }
    name.ends_with(end)
}

/// The types of all tensors: those of the recipe, changed by the rules.
///
/// In `q4`, tables and head stay at 8 bits. A table is looked up, not multiplied, so its bits cost no speed;
/// on the demo model they halve the loss of quality. The head alone accounts for most of the rest.
pub fn recipe(kind: WeightType, specs: &[TensorSpec], rules: &[Rule]) -> Result<Vec<WeightType>> {
    for rule in rules {
        let matched = specs.iter().filter(|spec| rule.matches(&spec.name));
        if !matched.into_iter().any(|spec| spec.role != Role::Vector) {
            return Err(Error::argument(format!("--tensor-type: no matrix is named {:?}", rule.pattern)));
        }
    }
    Ok(specs
        .iter()
        .map(|spec| {
            let standard = match (spec.role, kind) {
                (Role::Vector, _) => WeightType::F32,
                (Role::Table | Role::Head, WeightType::Q4) => WeightType::Q8,
                _ => kind,
            };
            let rule = rules.iter().rev().find(|rule| spec.role != Role::Vector && rule.matches(&spec.name));
            rule.map_or(standard, |rule| rule.kind)
        })
        .collect())
}

/// Bytes of floats that are read, converted and written at a time.
const CHUNK_BYTES: usize = 16 << 20;

pub fn run(arguments: Arguments) -> Result<()> {
    let started = Instant::now();
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let kind = WeightType::from_name(&arguments.kind).expect("clap has checked the name");
    let specs = tensors(&checkpoint.config);
    let types = recipe(kind, &specs, &arguments.tensor_type)?;
    for spec in &specs {
        checkpoint.check(spec)?;
    }

    interrupt::listen();
    let path = &arguments.output;
    let io = AtomicFile::error(path);
    let described = specs.iter().zip(&types).map(|(spec, kind)| spec.describe(*kind)).collect();
    let mut writer = Writer::new(AtomicFile::create(path)?, described);
    let mut config = checkpoint.config.clone();
    if let Some(name) = arguments.name {
        config.name = name;
    }
    config.write(&mut writer);
    if let Some((json, end)) = &checkpoint.tokenizer {
        writer.text(TOKENIZER_KEY, json);
        if let Some(end) = end {
            writer.u32(END_TOKEN_KEY, *end);
        }
    }
    let rules: String = arguments.tensor_type.iter().map(|r| format!(", {}={}", r.pattern, r.kind)).collect();
    writer.text(RECIPE_KEY, &format!("{kind}{rules}"));
    writer.texts(TYPES_KEY, types.iter().map(|kind| kind.name()));
    writer.checksums(CHECKSUMS_KEY);
    writer.begin().map_err(&io)?;

    let total = specs.iter().map(|spec| spec.rows * spec.columns).sum::<usize>();
    let bar = output::progress(total as u64, "{msg} [{bar:30}] {percent}% {elapsed} left {eta}");
    bar.set_message("quantizing");
    for (spec, kind) in specs.iter().zip(&types) {
        write_tensor(&checkpoint, spec, *kind, &mut writer, path, |weights| bar.inc(weights as u64))?;
    }
    let (file, bytes) = writer.finish().map_err(&io)?;
    file.commit()?;
    bar.finish_and_clear();

    let summary = Summary::new(&specs, &types, bytes, checkpoint.unused(&specs).len());
    if arguments.json {
        output::print_json(&summary.json(path, started))
    } else {
        summary.print(path, started)
    }
}

/// Streams one tensor: reads whole panels of rows, converts them on all cores, writes them.
fn write_tensor(
    checkpoint: &Checkpoint,
    spec: &TensorSpec,
    kind: WeightType,
    writer: &mut Writer<AtomicFile>,
    path: &Path,
    mut done: impl FnMut(usize),
) -> Result<()> {
    let io = AtomicFile::error(path);
    let panels = (CHUNK_BYTES / (4 * spec.columns * PANEL_ROWS)).max(1);
    let (mut raw, mut floats, mut packed) = (Vec::new(), Vec::new(), Vec::new());
    writer.begin_tensor().map_err(&io)?;
    for first in (0..spec.rows).step_by(panels * PANEL_ROWS) {
        interrupt::check()?;
        let rows = (panels * PANEL_ROWS).min(spec.rows - first);
        checkpoint.read_rows(spec, first, rows, &mut raw, &mut floats)?;
        if kind.is_quantized() && spec.role != Role::Vector {
            let panels: Vec<Vec<u8>> = floats
                .par_chunks(PANEL_ROWS * spec.columns)
                .map(|rows| {
                    let mut packed = Vec::with_capacity(kind.panel_bytes(spec.columns));
                    pack_panel(kind, rows, spec.columns, &mut packed);
                    packed
                })
                .collect();
            for panel in panels {
                writer.write(&panel).map_err(&io)?;
            }
        } else {
            packed.clear();
            pack_floats(kind, &floats, &mut packed);
            writer.write(&packed).map_err(&io)?;
        }
        done(rows * spec.columns);
    }
    writer.end_tensor();
    Ok(())
}

/// What was written, by type.
struct Summary {
    rows: Vec<(WeightType, usize, usize, u64)>,
    bytes: u64,
    unused: usize,
}

impl Summary {
    fn new(specs: &[TensorSpec], types: &[WeightType], bytes: u64, unused: usize) -> Summary {
        let rows = WeightType::ALL.into_iter().filter_map(|kind| {
            let of_kind = || specs.iter().zip(types).filter(move |(_, k)| **k == kind).map(|(spec, _)| spec);
            let weights = of_kind().map(|spec| spec.rows * spec.columns).sum();
            let stored = of_kind().map(|spec| spec.describe(kind).bytes()).sum();
            (weights > 0).then(|| (kind, of_kind().count(), weights, stored))
        });
        Summary { rows: rows.collect(), bytes, unused }
    }

    fn total(&self) -> (usize, usize, u64) {
        self.rows.iter().fold((0, 0, 0), |sum, row| (sum.0 + row.1, sum.1 + row.2, sum.2 + row.3))
    }

    fn print(&self, path: &Path, started: Instant) -> Result<()> {
        let mut text = format!(
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
        text += &format!(
            "{}: {} in {:.1} s; left out {} tensors that inference does not use\n",
            path.display(),
            output::bytes(self.bytes),
            started.elapsed().as_secs_f64(),
            self.unused
        );
        output::print(&text)
    }

    fn json(&self, path: &Path, started: Instant) -> serde_json::Value {
        let (tensors, weights, stored) = self.total();
        let types: Vec<_> = self
            .rows
            .iter()
            .map(|(kind, tensors, weights, stored)| {
                json!({"type": kind.name(), "tensors": tensors, "weights": weights, "bytes": stored})
            })
            .collect();
        json!({
            "file": path.display().to_string(),
            "bytes": self.bytes,
            "tensors": tensors,
            "weights": weights,
            "bits_per_weight": 8.0 * stored as f64 / weights as f64,
            "types": types,
            "unused_tensors": self.unused,
            "seconds": started.elapsed().as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*.b", "x.a.b", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcdef", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("*b*b", "ab", false),
            ("**x**", "axb", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert!(Rule::parse("a=q5").is_err() && Rule::parse("a").is_err());
    }
}
