//! The facts of the configurations in the authors' repository, for checkpoints that come without theirs.

use cinderblock::unstable::model::Strategy;

use super::config::{self, EncoderFacts, Facts, StackFacts, T5Facts};

/// Their vocabulary: the one of GPT-NeoX-20B, filled up.
const VOCABULARY: usize = 50304;
/// Tokens of the contexts that all were trained with.
const CONTEXT: usize = 2048;

/// Layers and width of their encoders.
const ENCODER: (usize, usize) = (3, 256);

/// What kind of model a configuration describes.
enum Kind {
    /// Token embeddings, looked up and concatenated; a prefix of N pseudo tokens.
    Prefix(usize),
    /// As `Prefix`, and a projection layer over the embeddings of a block: initialized from a vanilla model.
    Uptrained(usize),
    /// As MEGABYTE: the context is added to the token embeddings.
    Summation,
    /// A RoBERTa encoder with this many leading tokens, and a prefix of one pseudo token or summation.
    Encoded(usize, Strategy),
    /// A RoBERTa encoder with this many leading tokens, and a T5 decoder: its heads, and the width of its feed-forward
    /// network.
    CrossAttention(usize, usize, usize),
    /// A GPT-NeoX of that number of heads, whose feed-forward network is as wide as given.
    Vanilla(usize, usize),
}

/// A configuration: its name, block length, layers and width of the two decoders, whether first blocks were padded.
struct Published {
    name: &'static str,
    kind: Kind,
    block_length: usize,
    block_decoder: (usize, usize),
    token_decoder: (usize, usize),
    padded: bool,
}

const fn row(
    name: &'static str,
    kind: Kind,
    block_decoder: (usize, usize),
    token_decoder: (usize, usize),
    padded: bool,
) -> Published {
    Published { name, kind, block_length: 4, block_decoder, token_decoder, padded }
}

const fn vanilla(name: &'static str, stack: (usize, usize), heads: usize, feed_forward: usize) -> Published {
    Published { block_length: 1, ..row(name, Kind::Vanilla(heads, feed_forward), stack, (0, 0), false) }
}

const TABLE: [Published; 25] = [
    row("block_main_b4_5", Kind::Prefix(2), (3, 256), (3, 256), true),
    row("block_main_b4_19", Kind::Prefix(2), (3, 512), (3, 512), true),
    row("block_main_b4_85", Kind::Prefix(2), (6, 768), (6, 768), true),
    row("block_main_b4_300", Kind::Prefix(2), (12, 1024), (12, 1024), false),
    row("block_main_b4_800", Kind::Prefix(2), (8, 2048), (8, 2048), false),
    row("block_main_b4_1.2b", Kind::Prefix(2), (12, 2048), (12, 2048), false),
    row("block_main_b4_85_flop_v70", Kind::Prefix(2), (6, 768), (6, 768), false),
    row("block_main_b4_300_flop_v70", Kind::Prefix(2), (12, 1024), (12, 1024), false),
    row("block_main_b4_800_flop_v70", Kind::Prefix(2), (8, 2048), (8, 2048), false),
    row("block_main_b4_1.2b_flop_v70", Kind::Prefix(2), (12, 2048), (12, 2048), false),
    row("block_uptrain_b4_85_10", Kind::Uptrained(2), (6, 768), (6, 768), true),
    row("block_uptrain_b4_300_10", Kind::Uptrained(2), (12, 1024), (12, 1024), true),
    row("block_uptrain_b4_800_10", Kind::Uptrained(2), (8, 2048), (8, 2048), true),
    row("block_megabyte_b4_5", Kind::Summation, (5, 256), (4, 128), false),
    row("block_megabyte_b4_19", Kind::Summation, (5, 512), (4, 256), false),
    row("block_megabyte_b4_85", Kind::Summation, (11, 768), (4, 512), false),
    row("block_ablation_b4_85_lookup_prefix", Kind::Prefix(1), (6, 768), (6, 768), false),
    row("block_ablation_b4_85_roberta_prefix", Kind::Encoded(0, Strategy::Prefix), (6, 768), (6, 768), false),
    row("block_ablation_b4_85_cls_sum", Kind::Encoded(3, Strategy::Summation), (6, 768), (6, 768), false),
    row("block_ablation_b4_85_cls_cross_attn", Kind::CrossAttention(3, 12, 3072), (6, 768), (6, 768), false),
    Published {
        block_length: 1,
        ..row("block_vanilla_ablation_b1_85", Kind::Prefix(1), (6, 768), (6, 768), true)
    },
    vanilla("vanilla_31", (6, 256), 8, 4096),
    vanilla("vanilla_70", (6, 512), 8, 2048),
    vanilla("vanilla_160", (12, 768), 12, 3072),
    vanilla("vanilla_410", (24, 1024), 16, 4096),
];

fn find(name: &str) -> Option<&'static Published> {
    TABLE.iter().find(|published| published.name == name)
}

/// Whether the authors' model of that name was trained with first blocks that are padded from the left at random.
pub fn padded(name: &str) -> Option<bool> {
    find(name).map(|published| published.padded)
}

/// The facts of a configuration, as its file gives them; `None` for a name that is none of theirs of that kind.
pub fn facts(name: &str, kind: config::Kind) -> Option<Facts> {
    let own = |published: &Published| match published.kind {
        Kind::Vanilla(..) => config::Kind::Vanilla,
        _ => config::Kind::Block,
    };
    let published = find(name).filter(|published| own(published) == kind)?;
    let stack = |(layers, hidden): (usize, usize)| StackFacts {
        layers: Some(layers),
        hidden: Some(hidden),
        ..StackFacts::default()
    };
    let (strategy, expansion_ratio) = match published.kind {
        Kind::Prefix(ratio) | Kind::Uptrained(ratio) => (Some(Strategy::Prefix), Some(ratio)),
        Kind::Encoded(_, Strategy::Prefix) => (Some(Strategy::Prefix), Some(1)),
        Kind::Summation | Kind::Encoded(_, Strategy::Summation) => (Some(Strategy::Summation), None),
        Kind::CrossAttention(..) => (None, None),
        Kind::Vanilla(heads, feed_forward) => {
            let mut stack = stack(published.block_decoder);
            (stack.heads, stack.feed_forward) = (Some(heads), Some(feed_forward));
            return Some(Facts {
                name: Some(name.to_string()),
                block_length: Some(1),
                max_length: Some(CONTEXT),
                tokenizer: Some("pythia".to_string()),
                block_decoder: stack,
                ..Facts::default()
            });
        }
    };
    let uptrained = matches!(published.kind, Kind::Uptrained(_));
    let encoder = match published.kind {
        Kind::Encoded(start_tokens, _) | Kind::CrossAttention(start_tokens, ..) => {
            Some(EncoderFacts { layers: Some(ENCODER.0), start_tokens, ..EncoderFacts::default() })
        }
        _ => None,
    };
    let hidden = published.block_decoder.1;
    let mut facts = Facts {
        name: Some(name.to_string()),
        block_length: Some(published.block_length),
        max_length: Some(CONTEXT),
        projection_layer: Some(uptrained || encoder.is_some()),
        embedding: Some(match &encoder {
            Some(_) => ENCODER.1,
            None if uptrained => hidden,
            None => hidden / published.block_length,
        }),
        encoder,
        strategy,
        // As in the files: the key is there, or it is not.
        padded: published.padded.then_some(true),
        expansion_ratio,
        tokenizer: Some("pythia".to_string()),
        block_decoder: stack(published.block_decoder),
        token_decoder: stack(published.token_decoder),
        t5: None,
    };
    facts.token_decoder.vocabulary = Some(VOCABULARY);
    if let Kind::CrossAttention(_, heads, feed_forward) = published.kind {
        let (layers, hidden) = published.token_decoder;
        facts.t5 = Some(T5Facts {
            layers: Some(layers),
            hidden: Some(hidden),
            heads: Some(heads),
            feed_forward: Some(feed_forward),
            vocabulary: Some(VOCABULARY),
            ..T5Facts::default()
        });
    }
    Some(facts)
}
