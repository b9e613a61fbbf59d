//! Models of a few kilobytes.

use std::io::Cursor;
use std::sync::OnceLock;

use cinderblock::unstable::model::{EmbedderConfig, Header, Role, TensorSpec, TokenDecoderConfig, tensors};
use cinderblock::unstable::quant::{PANEL_ROWS, Q4_RECORD, Q4_SCALES, Q8_RECORD, WeightType, pack_floats};
use cinderblock::{
    Activation, Alignment, Config, Model, Projection, Residual, Runtime, StackConfig, Strategy,
};

/// A tokenizer of the letters a to h, of pairs, and of the token that ends a text.
pub const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":11,"content":"<end>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{"a":0,"b":1,"c":2,"d":3,"Ã":4,"©":5,"Ġ":6,"ab":7,"Ġa":8,"Ċ":9,"cd":10},"merges":["a b","c d","Ġ a"]}}"#;

/// Tokens of that tokenizer.
pub const VOCABULARY: usize = 12;

/// The smallest shape with two layers, two heads and a part of everything.
pub fn config() -> Config {
    let stack = |layers| StackConfig {
        layers,
        hidden: 4,
        heads: 2,
        feed_forward: 6,
        rotary: 2,
        rotary_base: 10000.0,
        epsilon: 1e-5,
        residual: Residual::Parallel,
        activation: Activation::Gelu,
        attention_bias: true,
    };
    Config {
        name: "tiny".into(),
        block_length: 2,
        vocabulary: VOCABULARY,
        trained_blocks: 8,
        embedder: EmbedderConfig::Lookup { width: 2, projection: Projection::Concat },
        alignment: Alignment::Tail,
        block_decoder: stack(2),
        token_decoder: TokenDecoderConfig::Neox { stack: stack(1), strategy: Strategy::Prefix, expansion: 2 },
    }
}

/// A model file of that shape, whose matrices have the types that `kind` gives.
pub fn file(config: &Config, tokenizer: Option<&str>, kind: impl Fn(usize) -> WeightType) -> Vec<u8> {
    let specs = tensors(config);
    let kind = |(index, spec): (usize, &TensorSpec)| match spec.role {
        Role::Vector => WeightType::F32,
        _ => kind(index),
    };
    let typed: Vec<(&TensorSpec, WeightType)> =
        specs.iter().zip(specs.iter().enumerate().map(kind)).collect();
    let header = Header {
        config,
        tensors: &typed,
        alignment_reason: None,
        tokenizer,
        end_token: tokenizer.map(|_| 11),
        recipe: "tiny",
        calibration: None,
    };
    let mut writer = header.begin(Cursor::new(Vec::new())).expect("memory");
    let mut state = 1u32;
    for (spec, kind) in typed {
        writer.begin_tensor().expect("memory");
        writer.write(&content(spec, kind, &mut state)).expect("memory");
        writer.end_tensor();
    }
    writer.finish().expect("memory").0.into_inner()
}

fn content(spec: &TensorSpec, kind: WeightType, state: &mut u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    if spec.role == Role::Vector {
        let value: f32 = if spec.name.ends_with("norm.weight") { 1.0 } else { 0.125 };
        pack_floats(WeightType::F32, &vec![value; spec.width], &mut bytes);
        return bytes;
    }
    let mut next = || {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 16) as f32 / 32768.0 - 1.0
    };
    if kind.is_quantized() {
        for _ in 0..spec.rows.div_ceil(PANEL_ROWS) {
            panel(kind, spec.width, &mut next, &mut bytes);
        }
    } else {
        let values: Vec<f32> = (0..spec.rows * spec.width).map(|_| next()).collect();
        pack_floats(kind, &values, &mut bytes);
    }
    bytes
}

/// A panel of random weights between -1 and 1.
fn panel(kind: WeightType, width: usize, mut next: impl FnMut() -> f32, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.extend((0..kind.panel_bytes(width)).map(|_| (next() * 127.0) as i8 as u8));
    let panel = &mut bytes[start..];
    if kind == WeightType::Q4 {
        let (scales, records) = panel.split_at_mut(Q4_SCALES);
        scales.as_chunks_mut::<4>().0.fill((1.0f32 / 128.0).to_le_bytes());
        records.chunks_mut(Q4_RECORD).for_each(|record| record[..64].fill(15 | 8 << 4));
    } else {
        // An f16 of 1 / 128.
        let records = panel.chunks_mut(Q8_RECORD);
        records.for_each(|record| record[..64].as_chunks_mut::<2>().0.fill([0, 0x20]));
    }
}

/// A file of 8 kilobytes with every type of weights.
pub fn mixed() -> Vec<u8> {
    static MIXED: OnceLock<Vec<u8>> = OnceLock::new();
    let types = |index| match index {
        0 => WeightType::F16,
        5 => WeightType::Q4,
        7 => WeightType::Q8,
        _ => WeightType::ALL[2 + index % 3],
    };
    MIXED.get_or_init(|| file(&config(), Some(TOKENIZER), types)).clone()
}

/// The model of [`mixed`], with one thread.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let model = Model::from_bytes(&mixed()).expect("a sound file");
        Runtime::new(model, 1).expect("one thread")
    })
}
