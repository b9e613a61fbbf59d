//! Quantization that knows what the model reads: a text passes through the exact model and, beside it, through
//! the model as far as it is rounded, layer by layer. Every matrix is rounded for the inputs that it meets there,
//! and makes up for what was lost before it.

mod cholesky;
mod encoder;
mod forward;
mod group;
mod head;
mod matrix;
mod product;
mod round;
mod t5;
mod tensor;
mod view;

use std::collections::HashMap;

use cinderblock::Result;
use cinderblock::unstable::kernels::Kernels;
use cinderblock::unstable::model::{
    Config, EmbedderConfig, PAD_TOKEN, Projection, Residual, StackConfig, Strategy, TensorSpec,
    TokenDecoderConfig,
};
use cinderblock::unstable::quant::{PANEL_ROWS, Rounded, WeightType, pack_floats, pack_groups};

use crate::checkpoint::Checkpoint;
use crate::interrupt;
use forward::{Norm, activate, attention};
use head::calibrate_head;
use matrix::Matrix;
use tensor::{Calibrated, Inputs, calibrate, calibrate_table};

/// One sample in this number only judges.
const HELD_OUT: usize = 8;
/// Most samples that judge: what they decide on differs by more than they leave in doubt.
const MOST_HELD_OUT: usize = 1024;

/// Weight of an error in a stream beside its effect on each branch of the first layer. On the demo model 0.15 and
/// 0.3 give the same divergence.
const STREAM_SHARE: f32 = 0.2;

/// What calibration made of a matrix.
pub struct Finding {
    pub name: String,
    /// [`tensor::Method::name`].
    pub method: &'static str,
    /// Squared error of the outputs on held-out samples, relative to their variance; rounded to nearest, and as
    /// it is now.
    pub nearest_error: f64,
    pub error: f64,
}

/// Tensors as the file keeps them, and how each matrix was found.
#[derive(Default)]
pub struct Calibration {
    pub bytes: HashMap<String, Vec<u8>>,
    pub findings: Vec<Finding>,
}

/// One residual stream of each model.
struct Streams {
    exact: Matrix,
    rounded: Matrix,
}

impl Streams {
    fn map(&self, map: impl Fn(&Matrix) -> Matrix) -> Streams {
        Streams { exact: map(&self.exact), rounded: map(&self.rounded) }
    }

    fn add(&mut self, other: &Streams) {
        self.exact.add(&other.exact);
        self.rounded.add(&other.rounded);
    }

    fn inputs(&self) -> Inputs<'_> {
        let held_out = (self.exact.rows / HELD_OUT).clamp(1, MOST_HELD_OUT);
        Inputs { exact: &self.exact, rounded: &self.rounded, held_out }
    }
}

/// Reads, rounds and keeps the tensors of one checkpoint.
pub struct Calibrator<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    kernels: &'static Kernels,
    specs: HashMap<&'a str, (&'a TensorSpec, WeightType)>,
    calibration: Calibration,
    /// Called with the weights of each finished matrix.
    done: &'a dyn Fn(usize),
}

impl<'a> Calibrator<'a> {
    /// For tensors of these types.
    pub fn new(
        checkpoint: &'a Checkpoint,
        specs: &'a [TensorSpec],
        types: &[WeightType],
        done: &'a dyn Fn(usize),
    ) -> Result<Calibrator<'a>> {
        Ok(Calibrator {
            checkpoint,
            config: &checkpoint.config,
            kernels: Kernels::choose()?,
            specs: specs.iter().zip(types).map(|(spec, kind)| (spec.name.as_str(), (spec, *kind))).collect(),
            calibration: Calibration::default(),
            done,
        })
    }

    /// Rounds every matrix for a text of at least three blocks.
    pub fn run(mut self, tokens: &[u32]) -> Result<Calibration> {
        let config = self.config;
        let blocks = tokens.len() / config.block_length;
        let tokens = &tokens[..blocks * config.block_length];

        let mut streams = self.embed(tokens)?;
        self.stack("block_decoder", &config.block_decoder, &mut streams, config.trained_blocks)?;
        let norm = self.norm("block_decoder.final_norm")?;
        let contexts = streams.map(|x| norm.apply(self.kernels, config.block_decoder.epsilon, x));
        drop(streams);
        let outputs = match &config.token_decoder {
            TokenDecoderConfig::Neox { stack, strategy, expansion } => {
                self.neox(contexts, tokens, stack, (*strategy, *expansion))?
            }
            TokenDecoderConfig::T5 { decoder, expansion } => {
                self.t5(contexts, tokens, decoder, *expansion)?
            }
            TokenDecoderConfig::Head { .. } => contexts,
        };
        self.head(&outputs)?;
        Ok(self.calibration)
    }

    /// The inputs of the vocabulary head after a token decoder that is a GPT-NeoX stack.
    fn neox(
        &mut self,
        contexts: Streams,
        tokens: &[u32],
        stack: &StackConfig,
        (strategy, expansion): (Strategy, usize),
    ) -> Result<Streams> {
        let config = self.config;
        let expanded = self.linear("token_decoder.expansion", &contexts)?;
        drop(contexts);
        let mut streams = self.blocks(&expanded, tokens, stack.hidden, (strategy, expansion))?;
        drop(expanded);
        let positions = config.token_positions();
        self.stack("token_decoder", stack, &mut streams, positions)?;
        let norm = self.norm("token_decoder.final_norm")?;
        let skipped = config.token_decoder.first_positions() - 1;
        Ok(streams.map(|x| {
            let predicting = x.data.chunks_exact(positions * x.columns);
            let data: Vec<f32> =
                predicting.flat_map(|block| &block[skipped * x.columns..]).copied().collect();
            let rows = Matrix::new(data.len() / x.columns, x.columns, data);
            norm.apply(self.kernels, stack.epsilon, &rows)
        }))
    }

    /// Reads a tensor; `None` if the model has none of that name.
    fn read(&self, name: &str) -> Result<Option<(Matrix, WeightType)>> {
        interrupt::check()?;
        let Some((spec, kind)) = self.specs.get(name) else { return Ok(None) };
        let (mut raw, mut floats) = (Vec::new(), Vec::new());
        self.checkpoint.read_rows(spec, 0, spec.rows, &mut raw, &mut floats)?;
        Ok(Some((Matrix::new(spec.rows, spec.width, floats), *kind)))
    }

    /// Reads a matrix of the model.
    fn matrix(&self, name: &str) -> Result<(Matrix, WeightType)> {
        self.read(name)?.ok_or_else(|| cinderblock::Error::format(format!("tensor {name:?} is missing")))
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        let part = |part: &str| Ok::<_, cinderblock::Error>(self.matrix(&format!("{name}.{part}"))?.0.data);
        Ok(Norm { weight: part("weight")?, bias: part("bias")? })
    }

    fn pack(&mut self, name: &str, kind: WeightType, groups: &[Rounded], columns: usize) {
        let mut bytes = Vec::new();
        let panel = PANEL_ROWS * columns.div_ceil(cinderblock::unstable::quant::GROUP);
        groups.chunks(panel).for_each(|groups| pack_groups(kind, groups, columns, &mut bytes));
        self.calibration.bytes.insert(name.to_string(), bytes);
    }

    /// Keeps a calibrated matrix, and its bias if it has one.
    fn keep(&mut self, name: &str, calibrated: &Calibrated) {
        let weight = format!("{name}.weight");
        (self.done)(calibrated.values.data.len());
        if calibrated.kind.is_quantized() {
            self.pack(&weight, calibrated.kind, &calibrated.groups, calibrated.values.columns);
        }
        if !calibrated.bias.is_empty() {
            let mut bytes = Vec::new();
            pack_floats(WeightType::F32, &calibrated.bias, &mut bytes);
            self.calibration.bytes.insert(format!("{name}.bias"), bytes);
        }
        self.calibration.findings.push(Finding {
            name: weight,
            method: calibrated.method.name(),
            nearest_error: calibrated.nearest_error,
            error: calibrated.error,
        });
    }

    /// Rounds a matrix for its inputs and returns its outputs, to which its bias is added if it has one.
    fn linear(&mut self, name: &str, inputs: &Streams) -> Result<Streams> {
        let (weights, kind) = self.matrix(&format!("{name}.weight"))?;
        let bias = self.read(&format!("{name}.bias"))?.map_or(Vec::new(), |(bias, _)| bias.data);
        let calibrated = calibrate(kind, &weights, &bias, inputs.inputs());
        self.keep(name, &calibrated);
        let product = |x: &Matrix, weights: &Matrix, bias: &[f32]| {
            let mut output = x.view().times(weights.view().transposed());
            output.add_row(bias);
            output
        };
        Ok(Streams {
            exact: product(&inputs.exact, &weights, &bias),
            rounded: product(&inputs.rounded, &calibrated.values, &calibrated.bias),
        })
    }

    /// How much an error in each direction of a stream that enters a decoder matters, `[hidden, hidden]`: what it
    /// does to the first products of both branches of the first layer, and to the stream itself.
    fn sensitivity(&self, stack: &str, hidden: usize) -> Result<Matrix> {
        let identity = STREAM_SHARE / hidden as f32;
        let mut sum = Matrix::zeros(hidden, hidden);
        for (norm, consumer) in
            [("attention_norm", "attention.qkv"), ("feed_forward_norm", "feed_forward.up")]
        {
            let layer = format!("{stack}.layers.0");
            let norm = self.norm(&format!("{layer}.{norm}"))?;
            let (mut weights, _) = self.matrix(&format!("{layer}.{consumer}.weight"))?;
            for row in weights.data.chunks_exact_mut(hidden) {
                row.iter_mut().zip(&norm.weight).for_each(|(weight, norm)| *weight *= norm);
            }
            let mut gram = weights.view().gram();
            let trace = gram.mean_diagonal() * hidden as f32;
            gram.data.iter_mut().for_each(|value| *value /= trace.max(f32::MIN_POSITIVE));
            sum.add(&gram);
        }
        for i in 0..hidden {
            sum.data[i * hidden + i] += identity;
        }
        Ok(sum)
    }

    /// Rounds a table whose errors matter as `sensitivity` says: the exact one, and what the file's one stands for.
    fn table(&mut self, name: &str, sensitivity: &Matrix) -> Result<Streams> {
        let (exact, kind) = self.matrix(name)?;
        let calibrated = calibrate_table(kind, &exact, sensitivity);
        self.keep(name.trim_end_matches(".weight"), &calibrated);
        Ok(Streams { exact, rounded: calibrated.values })
    }

    /// The streams before the block decoder, `[blocks, hidden]`.
    fn embed(&mut self, tokens: &[u32]) -> Result<Streams> {
        let config = self.config;
        let (width, projection) = match &config.embedder {
            EmbedderConfig::Lookup { width, projection } => (*width, *projection),
            EmbedderConfig::Roberta { encoder, projection } => {
                return self.encode(tokens, encoder, *projection);
            }
        };
        let mut sensitivity = self.sensitivity("block_decoder", config.block_decoder.hidden)?;
        if projection == Projection::Linear {
            let (layer, _) = self.matrix("embedder.projection.weight")?;
            sensitivity = layer.view().transposed().times(sensitivity.view()).view().times(layer.view());
        }
        let table = self.table("embedder.embeddings.weight", &sensitivity.mean_block(width))?;
        let width = config.block_length * width;
        let embedded = table.map(|table| {
            let data: Vec<f32> =
                tokens.iter().flat_map(|&token| table.row(token as usize)).copied().collect();
            Matrix::new(data.len() / width, width, data)
        });
        match projection {
            Projection::Concat => Ok(embedded),
            Projection::Linear => self.linear("embedder.projection", &embedded),
        }
    }

    /// The streams before the token decoder, `[blocks - 1, positions, hidden]`: each context meets the block
    /// after it.
    fn blocks(
        &mut self,
        expanded: &Streams,
        tokens: &[u32],
        hidden: usize,
        (strategy, expansion): (Strategy, usize),
    ) -> Result<Streams> {
        let config = self.config;
        let length = config.block_length;
        let sensitivity = self.sensitivity("token_decoder", hidden)?;
        let table = self.table("token_decoder.embeddings.weight", &sensitivity)?;
        let columns = |expanded: &Matrix, table: &Matrix| {
            let mut data = Vec::new();
            for (context, block) in
                expanded.data.chunks_exact(expanded.columns).zip(tokens[length..].chunks_exact(length))
            {
                let part = |part: usize| &context[part * hidden..][..hidden];
                for position in 0..config.token_positions() {
                    match strategy {
                        Strategy::Prefix if position < expansion => data.extend_from_slice(part(position)),
                        Strategy::Prefix => data.extend(table.row(block[position - expansion] as usize)),
                        Strategy::Summation => {
                            let token = if position == 0 { PAD_TOKEN } else { block[position - 1] };
                            let row = table.row(token as usize).iter().zip(part(position));
                            data.extend(row.map(|(token, part)| token + part));
                        }
                    }
                }
            }
            Matrix::new(data.len() / hidden, hidden, data)
        };
        Ok(Streams {
            exact: columns(&expanded.exact, &table.exact),
            rounded: columns(&expanded.rounded, &table.rounded),
        })
    }

    /// Passes the streams through a decoder; every `length` columns are a sequence.
    fn stack(&mut self, name: &str, config: &StackConfig, x: &mut Streams, length: usize) -> Result<()> {
        for layer in 0..config.layers {
            let part = |part: &str| format!("{name}.layers.{layer}.{part}");
            let kernels = self.kernels;
            let norm = self.norm(&part("attention_norm"))?;
            let normed = x.map(|x| norm.apply(kernels, config.epsilon, x));
            let qkv = self.linear(&part("attention.qkv"), &normed)?;
            drop(normed);
            let attended = qkv.map(|qkv| attention(config, qkv, length));
            drop(qkv);
            let sum = self.linear(&part("attention.output"), &attended)?;
            drop(attended);
            // What the feed-forward part reads.
            let sequential = config.residual == Residual::Sequential;
            if sequential {
                x.add(&sum);
            }
            let norm = self.norm(&part("feed_forward_norm"))?;
            let normed = x.map(|x| norm.apply(kernels, config.epsilon, x));
            let mut wide = self.linear(&part("feed_forward.up"), &normed)?;
            drop(normed);
            activate(kernels, config.activation, &mut wide.exact);
            activate(kernels, config.activation, &mut wide.rounded);
            let down = self.linear(&part("feed_forward.down"), &wide)?;
            if !sequential {
                x.add(&sum);
            }
            x.add(&down);
        }
        Ok(())
    }

    /// Rounds the vocabulary head.
    fn head(&mut self, inputs: &Streams) -> Result<()> {
        let (weights, kind) = self.matrix("token_decoder.head.weight")?;
        let calibrated = calibrate_head(kind, &weights, inputs.inputs());
        self.keep("token_decoder.head", &calibrated);
        Ok(())
    }
}
