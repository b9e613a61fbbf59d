//! The token decoder: a context embedding and the tokens of one block to logits of the next token.

use super::config::{Config, PAD_TOKEN, Strategy};
use super::stack::{Scratch, Span, head_width};
use super::weights::ModelWeights;
use crate::cache::{Cache, CacheShape};
use crate::error::Result;
use crate::kernels::{Activations, Epilogue, Kernels, Product, Term, multiply};
use crate::threads::Crew;

/// Buffers of the token decoder, and the cache of one open block.
pub struct TokenDecoder {
    /// Holds a whole block, so it never rolls.
    cache: Cache<f32>,
    scratch: Scratch<f32>,
    contexts: Activations,
    /// `[blocks, expansion, hidden]`.
    expanded: Vec<f32>,
    x: Vec<f32>,
    outputs: Activations,
}

impl TokenDecoder {
    /// Buffers, still empty.
    ///
    /// # Errors
    /// If the cache cannot be allocated.
    pub fn new(config: &Config, weights: &ModelWeights) -> Result<Self> {
        Ok(TokenDecoder {
            cache: Cache::new(Self::cache_shape(config))?,
            scratch: Scratch::new(&weights.token_decoder),
            contexts: Activations::new(
                config.block_decoder.hidden,
                weights.expansion.weight.kind().is_quantized(),
            ),
            expanded: Vec::new(),
            x: Vec::new(),
            outputs: Activations::new(config.token_decoder.hidden, weights.head.kind().is_quantized()),
        })
    }

    /// Shape of the cache of one block.
    pub fn cache_shape(config: &Config) -> CacheShape {
        let stack = &config.token_decoder;
        CacheShape {
            layers: stack.layers,
            heads: stack.heads,
            width: head_width(stack.head_dim()),
            sinks: 0,
            window: config.token_positions(),
        }
    }

    /// Bytes of the cache and of the buffers of one sequence.
    pub(crate) fn memory(config: &Config) -> usize {
        let (stack, positions) = (&config.token_decoder, config.token_positions());
        let cache = 8 * Self::cache_shape(config).elements().unwrap_or_default();
        cache + Scratch::<f32>::bytes(stack, positions, positions) + 4 * positions * stack.hidden
    }

    /// Opens a block: forgets the last one and expands the context embedding of this one. `context` is a
    /// column of the block decoder's residual stream, before its final norm.
    pub(crate) fn open(
        &mut self,
        crew: &Crew,
        kernels: &Kernels,
        config: &Config,
        weights: &ModelWeights,
        context: &[f32],
    ) {
        self.cache.clear();
        self.expand(crew, kernels, config, weights, context);
    }

    /// Expands contexts (`[blocks, block_hidden]`, before the final norm).
    fn expand(
        &mut self,
        crew: &Crew,
        kernels: &Kernels,
        config: &Config,
        weights: &ModelWeights,
        contexts: &[f32],
    ) {
        let hidden = config.block_decoder.hidden;
        let blocks = contexts.len() / hidden;
        let (norm, epsilon) = (&weights.block_decoder.final_norm, config.block_decoder.epsilon);
        self.contexts.fill(crew, kernels, blocks, |block, output| {
            norm.apply(kernels, epsilon, &contexts[block * hidden..][..hidden], output);
        });
        let length = blocks * config.expansion * config.token_decoder.hidden;
        grow(&mut self.expanded, length);
        let expansion = &weights.expansion;
        let term = Term { weights: expansion.weight.view(), bias: &expansion.bias, input: &self.contexts };
        let product =
            Product { terms: &[term], epilogue: Epilogue::Store, output: &mut self.expanded[..length] };
        multiply(crew, kernels, product, None);
    }

    /// Feeds what the open block (`tokens` so far) still lacks and writes the logits of its next token.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn logits(
        &mut self,
        crew: &Crew,
        kernels: &Kernels,
        config: &Config,
        weights: &ModelWeights,
        tokens: &[u32],
        logits: &mut [f32],
    ) {
        let hidden = config.token_decoder.hidden;
        let first = self.cache.length();
        let columns = config.first_positions() + tokens.len() - first as usize;
        grow(&mut self.x, columns * hidden);
        let x = &mut self.x[..columns * hidden];
        for (position, column) in (first as usize..).zip(x.chunks_exact_mut(hidden)) {
            input(config, weights, &self.expanded, tokens, position, column);
        }
        let mut spans = [Span { columns, first, cache: Some(&mut self.cache) }];
        weights.token_decoder.forward(crew, kernels, &mut self.scratch, x, &mut spans);
        let last = (columns - 1) * hidden;
        self.head(crew, kernels, config, weights, 1, |_| last, logits);
    }

    /// Logits of every token of whole blocks, each known beforehand: `[blocks, block_length, vocabulary]`.
    /// `contexts` is `[blocks, block_hidden]`, `tokens` `[blocks, block_length]`.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn teacher_forced(
        &mut self,
        crew: &Crew,
        kernels: &Kernels,
        config: &Config,
        weights: &ModelWeights,
        contexts: &[f32],
        tokens: &[u32],
        logits: &mut [f32],
    ) {
        let (length, hidden) = (config.block_length, config.token_decoder.hidden);
        let blocks = tokens.len() / length;
        let positions = config.token_positions();
        self.expand(crew, kernels, config, weights, contexts);
        let expanded_block = config.expansion * hidden;
        grow(&mut self.x, blocks * positions * hidden);
        let x = &mut self.x[..blocks * positions * hidden];
        for (index, column) in x.chunks_exact_mut(hidden).enumerate() {
            let (block, position) = (index / positions, index % positions);
            let expanded = &self.expanded[block * expanded_block..][..expanded_block];
            input(config, weights, expanded, &tokens[block * length..][..length], position, column);
        }
        let mut spans: Vec<Span<'_, f32>> =
            (0..blocks).map(|_| Span { columns: positions, first: 0, cache: None }).collect();
        weights.token_decoder.forward(crew, kernels, &mut self.scratch, x, &mut spans);
        let skipped = config.first_positions() - 1;
        let start = |row: usize| (row / length * positions + skipped + row % length) * hidden;
        self.head(crew, kernels, config, weights, blocks * length, start, logits);
    }

    /// Final norm and vocabulary head of the columns of `x` that begin at `start(row)`.
    #[allow(clippy::too_many_arguments)]
    fn head(
        &mut self,
        crew: &Crew,
        kernels: &Kernels,
        config: &Config,
        weights: &ModelWeights,
        rows: usize,
        start: impl Fn(usize) -> usize + Sync,
        logits: &mut [f32],
    ) {
        let (norm, epsilon) = (&weights.token_decoder.final_norm, config.token_decoder.epsilon);
        let x = &self.x;
        self.outputs.fill(crew, kernels, rows, |row, output| {
            norm.apply(kernels, epsilon, &x[start(row)..][..output.len()], output);
        });
        let term = Term { weights: weights.head.view(), bias: &[], input: &self.outputs };
        multiply(crew, kernels, Product { terms: &[term], epilogue: Epilogue::Store, output: logits }, None);
    }
}

fn grow(buffer: &mut Vec<f32>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
}

/// The input at a position of a block: a part of the expanded context, a token's embedding, or their sum.
fn input(
    config: &Config,
    weights: &ModelWeights,
    expanded: &[f32],
    tokens: &[u32],
    position: usize,
    output: &mut [f32],
) {
    let table = weights.token_embeddings.view();
    let hidden = output.len();
    let part = |part: usize| &expanded[part * hidden..][..hidden];
    match config.strategy {
        Strategy::Prefix if position < config.expansion => output.copy_from_slice(part(position)),
        Strategy::Prefix => table.row(tokens[position - config.expansion] as usize, output),
        Strategy::Summation => {
            let part = part(position);
            let token = if position == 0 { PAD_TOKEN } else { tokens[position - 1] };
            table.row(token as usize, output);
            for (output, part) in output.iter_mut().zip(part) {
                *output += part;
            }
        }
    }
}
