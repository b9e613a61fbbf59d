//! One sequence: it takes text in, at any time and in any pieces, and gives the logits of the next token.
//!
//! Only the very first text is padded on the left to whole blocks. What is appended later continues inside
//! the open block: whole blocks go through the block decoder alone, and the tokens of the last, partial block
//! are forced through the token decoder when its logits are asked for.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{BATCH, BlockDecoder, Model, PAD_TOKEN, TokenDecoder};
use crate::quant::WeightType;
use crate::threads::Team;

/// The type in which the block decoder keeps its keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// Single precision: exact, for comparisons.
    F32,
    /// Half precision.
    F16,
}

impl CacheType {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            CacheType::F32 => 4,
            CacheType::F16 => 2,
        }
    }
}

/// What a session is given.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Blocks that the cache holds, pinned ones included.
    pub cache_blocks: usize,
    /// First blocks that stay for ever; fewer than `cache_blocks`.
    pub sink_blocks: usize,
    /// Type of the cache; `None` is f32 for a model of f32 weights and f16 for any other.
    pub cache_type: Option<CacheType>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions { cache_blocks: 512, sink_blocks: 4, cache_type: None }
    }
}

impl SessionOptions {
    /// The type of the cache for a model.
    pub fn cache_type_for(&self, model: &Model) -> CacheType {
        let exact =
            model.weights().block_decoder.layers.iter().all(|l| l.qkv.weight.kind() == WeightType::F32);
        self.cache_type.unwrap_or(if exact { CacheType::F32 } else { CacheType::F16 })
    }
}

/// What a session needs of memory, known before anything is allocated.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryEstimate {
    /// Bytes of the mapped file, all of which are read sooner or later.
    pub weights: u64,
    /// Bytes of the block decoder's cache.
    pub cache: u64,
    /// Bytes of all buffers.
    pub scratch: u64,
    /// Blocks that the cache holds.
    pub cache_blocks: usize,
}

impl MemoryEstimate {
    /// The estimate for one session.
    pub fn new(model: &Model, options: &SessionOptions) -> MemoryEstimate {
        let config = model.config();
        let (cache, buffers) =
            BlockDecoder::memory(config, options.cache_type_for(model), options.cache_blocks);
        // Logits, and the sampler's candidates.
        let scratch = buffers + TokenDecoder::memory(config) + 12 * config.vocabulary;
        MemoryEstimate {
            weights: model.file_bytes() as u64,
            cache: cache as u64,
            scratch: scratch as u64,
            cache_blocks: options.cache_blocks,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.scratch)
    }
}

/// A sequence and its caches.
pub struct Session {
    model: Arc<Model>,
    team: Arc<Team>,
    blocks: BlockDecoder,
    tokens: TokenDecoder,
    /// Tokens of the open block; never a whole block.
    open: Vec<u32>,
    /// The last block's column of the residual stream.
    context: Vec<f32>,
    logits: Vec<f32>,
    /// Whether the token decoder has been opened on `context`, and whether `logits` are those of `open`.
    opened: bool,
    current: bool,
}

impl Session {
    /// An empty sequence.
    ///
    /// # Errors
    /// If an option is out of range or the cache cannot be allocated.
    pub fn new(model: &Arc<Model>, team: &Arc<Team>, options: &SessionOptions) -> Result<Session> {
        let window = options.cache_blocks.checked_sub(options.sink_blocks).filter(|&window| window > 0);
        let window = window.ok_or_else(|| {
            Error::argument(format!(
                "cache of {} blocks: expected more than the {} pinned ones",
                options.cache_blocks, options.sink_blocks
            ))
        })?;
        let (config, weights) = (model.config(), model.weights());
        let kind = options.cache_type_for(model);
        Ok(Session {
            blocks: BlockDecoder::new(config, weights, kind, options.sink_blocks, window)?,
            tokens: TokenDecoder::new(config, weights)?,
            open: Vec::with_capacity(config.block_length),
            context: vec![0.0; config.block_decoder.hidden],
            logits: vec![0.0; config.vocabulary],
            opened: false,
            current: false,
            model: Arc::clone(model),
            team: Arc::clone(team),
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens so far, the padding of the first block included.
    pub fn length(&self) -> u64 {
        self.blocks.length() * self.model.config().block_length as u64 + self.open.len() as u64
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.open.clear();
        self.opened = false;
        self.current = false;
    }

    /// Adds tokens, in time proportional to their number.
    ///
    /// # Errors
    /// If a token is not in the vocabulary; then nothing was added.
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        self.model.check_tokens(tokens)?;
        if tokens.is_empty() {
            return Ok(());
        }
        self.current = false;
        let length = self.model.config().block_length;
        if self.blocks.length() == 0 && self.open.is_empty() {
            self.open.resize(tokens.len().next_multiple_of(length) - tokens.len(), PAD_TOKEN);
        }
        let fill = (length - self.open.len()).min(tokens.len());
        let (fill, rest) = tokens.split_at(fill);
        self.open.extend(fill);
        if self.open.len() < length {
            return Ok(());
        }
        let (whole, open) = rest.split_at(rest.len() - rest.len() % length);
        let (model, team) = (&self.model, &self.team);
        let (blocks, context, first) = (&mut self.blocks, &mut self.context, &self.open);
        team.region(|crew| {
            let (config, weights) = (model.config(), model.weights());
            let batches = std::iter::once(&first[..]).chain(whole.chunks(BATCH * length));
            for batch in batches {
                let stream = blocks.forward(crew, model.kernels(), config, weights, batch);
                let last = stream.len() - context.len();
                context.copy_from_slice(&stream[last..]);
            }
        });
        self.open.clear();
        self.open.extend(open);
        self.opened = false;
        Ok(())
    }

    /// The logits of the next token, `[vocabulary]`.
    ///
    /// # Errors
    /// If the sequence is empty, or the logits are not finite, as damaged weights make them.
    pub fn logits(&mut self) -> Result<&[f32]> {
        if self.blocks.length() == 0 {
            return Err(Error::argument("the prompt is empty: found 0 tokens, expected at least 1"));
        }
        if !self.current {
            let (model, team) = (&self.model, &self.team);
            let (decoder, context, open) = (&mut self.tokens, &self.context, &self.open);
            let (logits, opened) = (&mut self.logits, self.opened);
            team.region(|crew| {
                let (config, weights, kernels) = (model.config(), model.weights(), model.kernels());
                if !opened {
                    decoder.open(crew, kernels, config, weights, context);
                }
                decoder.logits(crew, kernels, config, weights, open, logits);
            });
            self.opened = true;
            check_finite(&self.logits)?;
            self.current = true;
        }
        Ok(&self.logits)
    }
}

/// Refuses logits that are not finite.
pub(crate) fn check_finite(logits: &[f32]) -> Result<()> {
    match logits.iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(value) => Err(Error::new(
            ErrorKind::Numeric,
            format!("logits: found {value}, expected finite numbers (is the model file damaged?)"),
        )),
    }
}
