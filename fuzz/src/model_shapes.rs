//! Sound model files of any small shape, any types and remarkable weights, and then changes of their header.

use cinderblock::unstable::model::{EmbedderConfig, TokenDecoderConfig};
use cinderblock::unstable::quant::WeightType;
use cinderblock::{Activation, Alignment, Config, Model, Projection, Residual, StackConfig, Strategy};

use super::{Choices, check, model, tiny};

pub fn run(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let config = config(&mut choices);
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

fn config(choices: &mut Choices) -> Config {
    let mut stack = || {
        let hidden = choices.pick(&[4, 1, 2, 3, 6, 8, 16, 31, 32, 33, 64, 65, 128, 130]);
        let heads = choices.pick(&[1, 2, 3, 4, hidden]);
        StackConfig {
            layers: 1 + choices.below(2),
            hidden,
            heads,
            feed_forward: choices.pick(&[4, 1, 2, 7, 16, 33, 64, 129]),
            rotary: choices.pick(&[0, 2, 4, 8, hidden / heads / 2 * 2]),
            rotary_base: choices.pick(&[10000.0, 1.0, 1e-30, f32::MIN_POSITIVE, f32::MAX]),
            epsilon: choices.pick(&[1e-5, f32::MIN_POSITIVE, 1e-39, 1.0, f32::MAX]),
            residual: Residual::Parallel,
            activation: Activation::Gelu,
            attention_bias: true,
        }
    };
    let (mut block_decoder, token_decoder) = (stack(), stack());
    let block_length = choices.pick(&[2, 1, 3, 4, 5, 8, 16]);
    let linear = choices.byte() % 2 == 1;
    let embedding = choices.pick(&[2, 1, 3, 4, 8, 17]);
    if !linear {
        block_decoder.hidden = block_length * embedding;
    }
    Config {
        name: "shape".into(),
        block_length,
        vocabulary: choices.pick(&[12, 1, 2, 15, 16, 17, 33, 100]),
        trained_blocks: choices.pick(&[8, 1, 1 << 20, 1 << 32]),
        embedder: EmbedderConfig::Lookup {
            width: embedding,
            projection: if linear { Projection::Linear } else { Projection::Concat },
        },
        alignment: choices.pick(&[Alignment::Tail, Alignment::Left]),
        block_decoder,
        token_decoder: TokenDecoderConfig::Neox {
            stack: token_decoder,
            strategy: choices.pick(&[Strategy::Prefix, Strategy::Summation]),
            expansion: choices.pick(&[2, 1, 3, 4, 8, 16, 17]),
        },
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
