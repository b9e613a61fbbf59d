//! `synthesize`: a model of a published shape with random weights, to measure speed with.

use std::path::PathBuf;
use std::time::Instant;

use cinderblock::Result;
use cinderblock::unstable::kernels::Activation;
use cinderblock::unstable::model::{
    Alignment, Config, EmbedderConfig, EncoderConfig, Header, Projection, Residual, Role, StackConfig,
    Strategy, T5Config, TensorSpec, TokenDecoderConfig, tensors,
};
use cinderblock::unstable::quant::{Q4_RECORD, Q4_SCALES, Q8_RECORD, WeightType, row_scale};
use half::{bf16, f16};

use crate::interrupt;
use crate::output::{self, AtomicFile};
use crate::quantize::{Rule, recipe};

const EXAMPLES: &str = "\
Example:
  cinderblock synthesize --preset block_main_b4_1.2b --type q4 -o big.gguf";

/// Write a model of a published shape with random weights
///
/// Its text is nonsense, at exactly the speed of the real model. Writing it takes seconds.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The shape
    #[arg(long, value_name = "NAME", value_parser = PRESETS.map(|preset| preset.name))]
    preset: String,

    /// Type of the matrices, as for quantize
    #[arg(long = "type", value_name = "TYPE", default_value = "q4", value_parser = WeightType::ALL.map(WeightType::name))]
    kind: String,

    /// Type of the tensors whose name matches, as for quantize
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = Rule::parse)]
    tensor_type: Vec<Rule>,

    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// A published shape with a vocabulary of 50304, trained with 2048 tokens.
struct Preset {
    name: &'static str,
    /// Of each stack, or of the block decoder alone.
    layers: usize,
    hidden: usize,
    heads: usize,
    feed_forward: usize,
    kind: Kind,
}

/// What stands around the stacks.
#[derive(Clone, Copy)]
enum Kind {
    /// Blocks of 4 tokens and two stacks, of which the second reads a prefix of 2.
    Block,
    /// Blocks of 4 tokens, and another embedder or token decoder.
    Ablation(Embedder, Reads),
    /// Blocks of 4 tokens and a second stack of its own layers and width, to whose tokens the context is added.
    Megabyte(usize, usize),
    /// One stack, with a vocabulary head.
    Vanilla,
}

#[derive(Clone, Copy)]
enum Embedder {
    Lookup,
    /// A RoBERTa encoder with this many leading tokens.
    Roberta(usize),
}

/// How the token decoder reads a context.
#[derive(Clone, Copy)]
enum Reads {
    /// As a prefix of 1.
    Prefix,
    Summation,
    /// It is a T5 decoder.
    CrossAttention,
}

/// A block model: the authors' number of heads, feed-forward 4 x hidden.
const fn block(name: &'static str, layers: usize, hidden: usize) -> Preset {
    let heads = StackConfig::default_heads(hidden);
    Preset { name, layers, hidden, heads, feed_forward: 4 * hidden, kind: Kind::Block }
}

const fn ablation(name: &'static str, embedder: Embedder, reads: Reads) -> Preset {
    Preset { kind: Kind::Ablation(embedder, reads), ..block(name, 6, 768) }
}

/// A model after MEGABYTE, by the layers and widths of its decoders.
const fn megabyte(
    name: &'static str,
    block_decoder: (usize, usize),
    token_decoder: (usize, usize),
) -> Preset {
    let kind = Kind::Megabyte(token_decoder.0, token_decoder.1);
    Preset { kind, ..block(name, block_decoder.0, block_decoder.1) }
}

const fn vanilla(
    name: &'static str,
    layers: usize,
    hidden: usize,
    heads: usize,
    feed_forward: usize,
) -> Preset {
    Preset { name, layers, hidden, heads, feed_forward, kind: Kind::Vanilla }
}

const PRESETS: [Preset; 17] = [
    block("block_main_b4_5", 3, 256),
    block("block_main_b4_19", 3, 512),
    block("block_main_b4_85", 6, 768),
    block("block_main_b4_300", 12, 1024),
    block("block_main_b4_800", 8, 2048),
    block("block_main_b4_1.2b", 12, 2048),
    megabyte("block_megabyte_b4_5", (5, 256), (4, 128)),
    megabyte("block_megabyte_b4_19", (5, 512), (4, 256)),
    megabyte("block_megabyte_b4_85", (11, 768), (4, 512)),
    ablation("block_ablation_b4_85_lookup_prefix", Embedder::Lookup, Reads::Prefix),
    ablation("block_ablation_b4_85_roberta_prefix", Embedder::Roberta(0), Reads::Prefix),
    ablation("block_ablation_b4_85_cls_sum", Embedder::Roberta(3), Reads::Summation),
    ablation("block_ablation_b4_85_cls_cross_attn", Embedder::Roberta(3), Reads::CrossAttention),
    // Its configuration changes the width of Pythia 410M and leaves that of the feed-forward network.
    vanilla("vanilla_31", 6, 256, 8, 4096),
    vanilla("vanilla_70", 6, 512, 8, 2048),
    vanilla("vanilla_160", 12, 768, 12, 3072),
    vanilla("vanilla_410", 24, 1024, 16, 4096),
];

impl Preset {
    fn config(&self) -> Config {
        let stack = StackConfig {
            layers: self.layers,
            hidden: self.hidden,
            heads: self.heads,
            feed_forward: self.feed_forward,
            rotary: self.hidden / self.heads / 4,
            rotary_base: 10000.0,
            epsilon: 1e-5,
            residual: Residual::Parallel,
            activation: Activation::Gelu,
            attention_bias: true,
        };
        let block_length = match self.kind {
            Kind::Block | Kind::Megabyte(..) | Kind::Ablation(..) => 4,
            Kind::Vanilla => 1,
        };
        Config {
            name: format!("{} (random weights)", self.name),
            block_length,
            vocabulary: 50304,
            trained_blocks: 2048 / block_length,
            alignment: Alignment::Tail,
            embedder: self.embedder(self.hidden / block_length),
            token_decoder: self.token_decoder(&stack),
            block_decoder: stack,
        }
    }

    /// The embedder, whose table is `width` wide if it is looked up.
    fn embedder(&self, width: usize) -> EmbedderConfig {
        let Kind::Ablation(Embedder::Roberta(start_tokens), _) = self.kind else {
            return EmbedderConfig::Lookup { width, projection: Projection::Concat };
        };
        // The feed-forward width of roberta-base, which the authors' configurations leave as it is.
        let encoder = EncoderConfig {
            layers: 3,
            hidden: 256,
            heads: 8,
            feed_forward: 3072,
            positions: 514,
            start_tokens,
            epsilon: 1e-5,
        };
        EmbedderConfig::Roberta { encoder, projection: Projection::Linear }
    }

    fn token_decoder(&self, stack: &StackConfig) -> TokenDecoderConfig {
        let neox =
            |strategy, expansion| TokenDecoderConfig::Neox { stack: stack.clone(), strategy, expansion };
        match self.kind {
            Kind::Block => neox(Strategy::Prefix, 2),
            Kind::Megabyte(layers, hidden) => {
                let heads = StackConfig::default_heads(hidden);
                let (feed_forward, rotary) = (4 * hidden, hidden / heads / 4);
                let stack = StackConfig { layers, hidden, heads, feed_forward, rotary, ..stack.clone() };
                TokenDecoderConfig::Neox { stack, strategy: Strategy::Summation, expansion: 4 }
            }
            Kind::Ablation(_, Reads::Prefix) => neox(Strategy::Prefix, 1),
            Kind::Ablation(_, Reads::Summation) => neox(Strategy::Summation, 4),
            Kind::Ablation(_, Reads::CrossAttention) => {
                let decoder = T5Config {
                    layers: self.layers,
                    hidden: self.hidden,
                    heads: self.heads,
                    head_dim: self.hidden / self.heads,
                    feed_forward: self.feed_forward,
                    buckets: 32,
                    max_distance: 128,
                    epsilon: 1e-6,
                    output_scale: (self.hidden as f32).sqrt().recip(),
                    summation: false,
                };
                TokenDecoderConfig::T5 { decoder, expansion: 4 }
            }
            Kind::Vanilla => TokenDecoderConfig::Head { hidden: self.hidden },
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// If a rule matches no tensor, or the file cannot be written; `Interrupted` by a signal.
pub fn run(arguments: Arguments) -> Result<()> {
    interrupt::listen();
    let started = Instant::now();
    let preset =
        PRESETS.iter().find(|preset| preset.name == arguments.preset).expect("clap has checked the name");
    let kind = WeightType::from_name(&arguments.kind).expect("clap has checked the name");
    let config = preset.config();
    let specs = tensors(&config);
    let types = recipe(kind, &specs, &arguments.tensor_type)?;
    let path = &arguments.output;
    output::not_standard(path, "no way back to its beginning")?;
    let io = AtomicFile::error(path);
    let total = specs.iter().zip(&types).map(|(spec, kind)| spec.describe(*kind).bytes()).sum();
    output::check_space(path, total)?;
    let header = Header {
        config: &config,
        alignment_reason: None,
        tensors: &specs.iter().zip(types.iter().copied()).collect::<Vec<_>>(),
        tokenizer: None,
        end_token: None,
        recipe: &format!("{kind}, random"),
        calibration: None,
    };
    let mut writer = header.begin(output::create(path)?).map_err(&io)?;
    let bar = output::progress(total, "synthesizing [{bar:30}] {bytes}/{total_bytes} left {eta}");
    let mut random = Random(arguments.seed);
    let mut chunk = Vec::new();
    for (spec, kind) in specs.iter().zip(&types) {
        writer.begin_tensor().map_err(&io)?;
        let mut left = spec.describe(*kind).bytes() as usize;
        while left > 0 {
            interrupt::check()?;
            random.fill(spec, *kind, left, &mut chunk);
            writer.write(&chunk).map_err(&io)?;
            bar.inc(chunk.len() as u64);
            left -= chunk.len();
        }
        writer.end_tensor();
    }
    let (file, bytes) = writer.finish().map_err(&io)?;
    file.commit()?;
    bar.finish_and_clear();
    output::message(&format!(
        "{}: {} in {:.1} s",
        path.display(),
        output::bytes(bytes),
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

struct Random(u64);

/// Of every q4 group.
const MULTIPLIER: u8 = 10;

/// Most bytes that are made at once.
const CHUNK: usize = 1 << 20;

impl Random {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Fills `chunk` with the next bytes of a tensor of which `left` are to come. Weights are uniform with a
    /// standard deviation of 1 / sqrt(columns), so that activations stay of the order of 1.
    fn fill(&mut self, spec: &TensorSpec, kind: WeightType, left: usize, chunk: &mut Vec<u8>) {
        chunk.clear();
        // Whole panels, of the types that have them.
        let panel = if kind.is_quantized() { kind.panel_bytes(spec.width) } else { 1 };
        let length = left.min((CHUNK / panel).max(1) * panel);
        if spec.role == Role::Vector {
            // Norms must be near 1, biases may be 0.
            let value: f32 = if spec.name.ends_with("norm.weight") { 1.0 } else { 0.0 };
            return chunk.extend((0..length / 4).flat_map(|_| value.to_le_bytes()));
        }
        let deviation = 1.0 / (spec.width as f32).sqrt();
        if kind.is_quantized() {
            while chunk.len() < length {
                chunk.extend(self.next().to_le_bytes());
            }
            for panel in chunk.chunks_mut(panel) {
                if kind == WeightType::Q4 {
                    let scale = row_scale(deviation * 12f32.sqrt() / (16.0 * f32::from(MULTIPLIER)));
                    let (scales, records) = panel.split_at_mut(Q4_SCALES);
                    scales.as_chunks_mut::<4>().0.fill(scale.to_le_bytes());
                    records.chunks_mut(Q4_RECORD).for_each(|record| record[..64].fill(MULTIPLIER | 8 << 4));
                } else {
                    let scale = f16::from_f32(deviation * 12f32.sqrt() / 256.0).to_le_bytes();
                    let records = panel.chunks_mut(Q8_RECORD);
                    records.for_each(|record| record[..64].as_chunks_mut::<2>().0.fill(scale));
                }
            }
            return;
        }
        let uniform = |bits: u64| ((bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * deviation * 3f32.sqrt();
        while chunk.len() < length {
            let value = uniform(self.next());
            match kind {
                WeightType::F32 => chunk.extend(value.to_le_bytes()),
                WeightType::F16 => chunk.extend(f16::from_f32(value).to_le_bytes()),
                _ => chunk.extend(bf16::from_f32(value).to_le_bytes()),
            }
        }
    }
}
