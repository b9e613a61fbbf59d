//! Teacher-forced logits of a known text, streamed in slabs of blocks.

use super::engine::{Logits, check_finite};
use super::options::SessionOptions;
use super::runtime::Runtime;
use crate::cache::{Cache, CacheType};
use crate::error::Result;
use crate::memory::{check_room, reserve};
use crate::model::{BATCH, BlockDecoder, Model, PAD_TOKEN, Segment, TokenDecoder};
use crate::threads::Region;

/// Blocks whose logits are in memory at once.
const SLAB: usize = 16;

/// Computes the logits of every token after the first block of a text.
pub struct Scorer {
    runtime: Runtime,
    cache: Cache,
    blocks: BlockDecoder,
    tokens: TokenDecoder,
    /// One cache for each block of a slab.
    slab: Vec<Cache>,
    /// Of the last pass, before the block decoder's final norm: `[blocks, hidden]`.
    contexts: Vec<f32>,
    logits: Vec<f32>,
}

impl Runtime {
    /// A scorer whose block decoder sees the blocks that a cache of these options holds.
    ///
    /// # Errors
    /// As [`Runtime::session`].
    pub fn scorer(&self, options: &SessionOptions) -> Result<Scorer> {
        let (config, weights) = (self.model().config(), self.model().weights());
        let shape = TokenDecoder::cache_shape(config);
        let cache = options.cache(self.model())?;
        let buffers = BlockDecoder::bytes(config, 1, options.cache_blocks_for(self.model()));
        check_room(buffers.saturating_add(TokenDecoder::bytes(config).saturating_mul(SLAB)))?;
        Ok(Scorer {
            cache,
            blocks: BlockDecoder::new(config, weights),
            tokens: TokenDecoder::new(config, weights),
            slab: (0..SLAB).map(|_| Cache::new(CacheType::F32, shape)).collect::<Result<_>>()?,
            contexts: Vec::new(),
            logits: Vec::new(),
            runtime: self.clone(),
        })
    }
}

impl Scorer {
    /// Scores a text on its own: it is padded on the left to whole blocks, and `each` gets every token after
    /// the first block with the logits `[vocabulary]` that predicted it, in order.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, the logits are not finite, there is no memory for a pass, or `each` fails.
    /// The scorer can be used again.
    pub fn score(&mut self, tokens: &[u32], mut each: impl FnMut(u32, &[f32]) -> Result<()>) -> Result<()> {
        let (padded, mut padding) = self.begin(tokens)?;
        let config = self.runtime.model().config();
        let (length, hidden) = (config.block_length, config.block_decoder.hidden);
        let mut done = length;
        // The last block predicts nothing that is known.
        let mut left = &padded[..padded.len().saturating_sub(length)];
        while !left.is_empty() {
            left = self.pass(left, std::mem::take(&mut padding))?;
            let Scorer { runtime, cache, tokens: decoder, slab, contexts, logits, .. } = self;
            let (model, team) = (runtime.model(), runtime.team());
            let config = model.config();
            for contexts in contexts.chunks(SLAB * hidden) {
                let targets = &padded[done..done + contexts.len() / hidden * length];
                done += targets.len();
                let length = targets.len().saturating_mul(config.vocabulary);
                reserve(logits, length, "logits")?;
                logits.resize(length, 0.0);
                team.region(|region| {
                    teacher_forced(region, model, decoder, slab, contexts, targets, logits)
                })?;
                let logits = Logits::new(logits, config.vocabulary, cache.kind());
                for (row, target) in targets.iter().enumerate() {
                    each(*target, logits.row(row)?)?;
                }
            }
        }
        Ok(())
    }

    /// The contexts of a text on its own, padded as in [`Scorer::score`]: `each` gets that of every block, `[hidden]`, in
    /// order. It is the block decoder's output, from which the token decoder predicts the next block. A block of a
    /// vanilla model is one token, and its context what the vocabulary head reads.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, a context is not finite, or `each` fails.
    pub fn contexts(&mut self, tokens: &[u32], mut each: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let (padded, mut padding) = self.begin(tokens)?;
        let hidden = self.runtime.model().config().block_decoder.hidden;
        let mut context = Vec::new();
        reserve(&mut context, hidden, "a context")?;
        context.resize(hidden, 0.0);
        let mut left = &padded[..];
        while !left.is_empty() {
            left = self.pass(left, std::mem::take(&mut padding))?;
            for column in 0..self.contexts.len() / hidden {
                BlockDecoder::context(self.runtime.model(), &self.contexts, column, &mut context);
                check_finite(&context, "context", self.cache.kind())?;
                each(&context)?;
            }
        }
        Ok(())
    }

    /// Begins a text: its tokens, padded on the left to whole blocks, and the number of those that are padding.
    fn begin(&mut self, tokens: &[u32]) -> Result<(Vec<u32>, usize)> {
        let model = self.runtime.model();
        model.check_tokens(tokens)?;
        let padding = tokens.len().next_multiple_of(model.config().block_length) - tokens.len();
        let mut padded = Vec::new();
        reserve(&mut padded, padding + tokens.len(), "tokens")?;
        padded.extend(std::iter::repeat_n(PAD_TOKEN, padding));
        padded.extend(tokens);
        self.cache.clear();
        Ok((padded, padding))
    }

    /// Runs the first of the blocks that are left through the block decoder, as many as pass together, and gives those
    /// that are left then. Their contexts are in `contexts`. The first block begins with tokens of padding.
    fn pass<'t>(&mut self, left: &'t [u32], padding: usize) -> Result<&'t [u32]> {
        let Scorer { runtime, cache, blocks, contexts, .. } = self;
        let model = runtime.model();
        let config = model.config();
        let columns = BATCH.min(left.len() / config.block_length).min(cache.room());
        let (tokens, left) = left.split_at(columns * config.block_length);
        contexts.clear();
        reserve(contexts, columns.saturating_mul(config.block_decoder.hidden), "contexts")?;
        contexts.extend_from_slice(runtime.team().region(|region| {
            let segment = Segment::new(columns, cache).padded(padding);
            blocks.forward(region, model, tokens, &mut [segment], None)
        })?);
        Ok(left)
    }
}

/// Logits of every token of whole blocks, each known beforehand: `[blocks, block_length, vocabulary]`.
/// `contexts` is `[blocks, block_hidden]`, `tokens` `[blocks, block_length]`.
fn teacher_forced(
    region: &Region<'_>,
    model: &Model,
    decoder: &mut TokenDecoder,
    slab: &mut [Cache],
    contexts: &[f32],
    tokens: &[u32],
    logits: &mut [f32],
) -> Result<()> {
    let config = model.config();
    let (length, positions) = (config.block_length, config.token_positions());
    let mut expanded = Vec::new();
    let opened = decoder.expand(region, model, contexts)?;
    reserve(&mut expanded, opened.len(), "expanded contexts")?;
    expanded.extend_from_slice(opened);
    decoder.begin();
    let rows = expanded.chunks_exact(config.token_decoder.opened_floats());
    for (expanded, block) in rows.clone().zip(tokens.chunks_exact(length)) {
        // The last token of a block is never fed.
        decoder.push(model, expanded, &block[..length - 1], 0)?;
    }
    let mut segments: Vec<Segment<'_>> = slab
        .iter_mut()
        .zip(rows)
        .map(|(cache, expanded)| {
            cache.clear();
            Segment::new(positions, cache).opened(expanded)
        })
        .collect();
    let skipped = config.token_decoder.first_positions() - 1;
    let column = |row: usize| row / length * positions + skipped + row % length;
    decoder.logits(region, model, &mut segments, column, logits, None)
}

/// Negative log-likelihood of `target` under softmax of `logits`, in f64.
pub fn negative_log_likelihood(logits: &[f32], target: u32) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    sum.ln() - f64::from(logits[target as usize] - most)
}
