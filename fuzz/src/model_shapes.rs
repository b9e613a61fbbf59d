//! Sound model files of any small shape, any types and remarkable weights, and then changes of their header.

use cinderblock::unstable::model::{EmbedderConfig, EncoderConfig, T5Config, TokenDecoderConfig};
use cinderblock::unstable::quant::WeightType;
use cinderblock::{Activation, Alignment, Config, Model, Projection, Residual, StackConfig, Strategy};

use super::{Choices, check, model, tiny};

pub fn run(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let wide = choices.byte() % 8 == 7;
    let config = Shapes { choices: &mut choices, wide }.config();
    if config.validate().is_err() {
        return;
    }
    let kinds: [u8; 8] = choices.number();
    let kind = |index: usize| WeightType::ALL[usize::from(kinds[index % 8].wrapping_add(index as u8)) % 5];
    let tokenizer = (choices.byte() % 8 == 7).then_some(tiny::TOKENIZER);
    let mut file = tiny::file(&config, tokenizer, kind);
    if check(Model::from_bytes(&file)).is_none() {
        // The end token of the tokenizer is not in a smaller vocabulary.
        assert!(tokenizer.is_some() && config.vocabulary < tiny::VOCABULARY, "a sound file is refused");
    }
    damage(&mut file, &mut choices);
    if let Some(model) = check(Model::from_bytes(&file)) {
        model::drive(model);
    }
}

/// Most shapes are small, so that many are tried; a few are as wide as the tiles of kernels.
struct Shapes<'c, 'b> {
    choices: &'c mut Choices<'b>,
    wide: bool,
}

impl Shapes<'_, '_> {
    fn width(&mut self) -> usize {
        let widths: &[usize] =
            if self.wide { &[31, 32, 33, 64, 65, 128, 130] } else { &[4, 1, 2, 3, 6, 8, 16] };
        self.choices.pick(widths)
    }

    fn layers(&mut self) -> usize {
        1 + self.choices.below(2)
    }

    fn epsilon(&mut self) -> f32 {
        self.choices.pick(&[1e-5, 1e-38, f32::MIN_POSITIVE, 1e-39, 1.0, f32::MAX])
    }

    fn heads(&mut self, hidden: usize) -> usize {
        self.choices.pick(&[1, 2, 3, 4, hidden])
    }

    fn stack(&mut self, hidden: usize) -> StackConfig {
        let heads = self.heads(hidden);
        StackConfig {
            layers: self.layers(),
            hidden,
            heads,
            feed_forward: self.width(),
            rotary: self.choices.pick(&[0, 2, hidden / heads / 2 * 2, 4, 8]),
            rotary_base: self.choices.pick(&[10000.0, 1.0, 1e-30, f32::MIN_POSITIVE, f32::MAX]),
            epsilon: self.epsilon(),
            residual: self.choices.pick(&[Residual::Parallel, Residual::Sequential]),
            activation: self.choices.pick(&[Activation::Gelu, Activation::GeluTanh, Activation::Relu]),
            attention_bias: self.choices.byte().is_multiple_of(2),
        }
    }

    /// With the width of the context.
    fn token_decoder(&mut self, context: usize) -> TokenDecoderConfig {
        match self.choices.below(4) {
            0 => TokenDecoderConfig::Head { hidden: context },
            1 => {
                let decoder = T5Config {
                    layers: self.layers(),
                    hidden: self.width(),
                    heads: self.choices.pick(&[1, 2, 3]),
                    head_dim: self.choices.pick(&[4, 1, 2, 17]),
                    feed_forward: self.width(),
                    buckets: self.choices.pick(&[2, 3, 8, 32]),
                    max_distance: self.choices.pick(&[17, 2, 128, usize::MAX]),
                    epsilon: self.epsilon(),
                    output_scale: self.choices.pick(&[1.0, 0.5, f32::MIN_POSITIVE, f32::MAX]),
                    summation: self.choices.byte().is_multiple_of(2),
                };
                TokenDecoderConfig::T5 { decoder, expansion: self.choices.pick(&[2, 1, 3, 4, 8, 16]) }
            }
            _ => {
                let hidden = self.width();
                TokenDecoderConfig::Neox {
                    stack: self.stack(hidden),
                    strategy: self.choices.pick(&[Strategy::Prefix, Strategy::Summation]),
                    expansion: self.choices.pick(&[2, 1, 3, 4, 8, 16, 17]),
                }
            }
        }
    }

    /// With the width of a block's embedding if the tokens' are joined.
    fn embedder(&mut self, block_length: usize) -> (EmbedderConfig, usize) {
        let projection = self.choices.pick(&[Projection::Concat, Projection::Linear]);
        if self.choices.below(3) > 0 {
            let width = self.choices.pick(&[2, 1, 3, 4, 8, 17]);
            return (EmbedderConfig::Lookup { width, projection }, block_length * width);
        }
        let hidden = self.width();
        let start_tokens = self.choices.pick(&[0, 1, 3]);
        let encoder = EncoderConfig {
            layers: self.layers(),
            hidden,
            heads: self.heads(hidden),
            feed_forward: self.width(),
            positions: start_tokens + block_length + 2 + self.choices.below(3),
            start_tokens,
            epsilon: self.epsilon(),
        };
        let joined = encoder.outputs(block_length) * hidden;
        (EmbedderConfig::Roberta { encoder, projection }, joined)
    }

    fn config(mut self) -> Config {
        // A vocabulary head alone needs blocks of one token.
        let block_length = self.choices.pick(&[1, 2, 1, 3, 4, 5, 8, 16]);
        let (embedder, joined) = self.embedder(block_length);
        let (EmbedderConfig::Lookup { projection, .. } | EmbedderConfig::Roberta { projection, .. }) =
            &embedder;
        let hidden = if *projection == Projection::Concat { joined } else { self.width() };
        Config {
            name: "shape".into(),
            block_length,
            vocabulary: self.choices.pick(&[12, 1, 2, 15, 16, 17, 33, 100]),
            trained_blocks: self.choices.pick(&[8, 1, 1 << 20, 1 << 32]),
            embedder,
            alignment: self.choices.pick(&[Alignment::Tail, Alignment::Left]),
            block_decoder: self.stack(hidden),
            token_decoder: self.token_decoder(hidden),
        }
    }
}

/// Writes remarkable numbers into the header and the weights.
fn damage(file: &mut [u8], choices: &mut Choices) {
    while !choices.is_empty() {
        let place = u32::from_le_bytes(choices.number()) as usize % file.len();
        let value = match choices.byte() % 4 {
            0 => choices.size().to_le_bytes().to_vec(),
            1 => (choices.size() as u32).to_le_bytes().to_vec(),
            2 => choices.float().to_le_bytes().to_vec(),
            _ => choices.some(16).to_vec(),
        };
        // Numbers of tensors are aligned.
        let place = if choices.byte().is_multiple_of(2) { place / 4 * 4 } else { place };
        let end = file.len().min(place + value.len());
        file[place..end].copy_from_slice(&value[..end - place]);
    }
}
