//! Teacher-forced logits of a known text, streamed in slabs of blocks.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{BATCH, BlockDecoder, Model, PAD_TOKEN, TokenDecoder};
use crate::session::{SessionOptions, check_finite};
use crate::threads::Team;

/// Blocks whose logits are in memory at once.
const SLAB: usize = 16;

/// Computes the logits of every token after the first block of a text.
pub struct Scorer {
    model: Arc<Model>,
    team: Arc<Team>,
    blocks: BlockDecoder,
    tokens: TokenDecoder,
    logits: Vec<f32>,
}

impl Scorer {
    /// A scorer whose block decoder sees what `options` let its cache hold.
    ///
    /// # Errors
    /// As [`crate::Session::new`].
    pub fn new(model: &Arc<Model>, team: &Arc<Team>, options: &SessionOptions) -> Result<Scorer> {
        let window = options.cache_blocks.saturating_sub(options.sink_blocks);
        if window == 0 {
            return Err(Error::argument("the cache must hold more blocks than are pinned"));
        }
        let (config, weights) = (model.config(), model.weights());
        let kind = options.cache_type_for(model);
        Ok(Scorer {
            blocks: BlockDecoder::new(config, weights, kind, options.sink_blocks, window)?,
            tokens: TokenDecoder::new(config, weights)?,
            logits: Vec::new(),
            model: Arc::clone(model),
            team: Arc::clone(team),
        })
    }

    /// Scores a text on its own: it is padded on the left to whole blocks, and `each` gets every token after
    /// the first block with the logits `[vocabulary]` that predicted it, in order.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, the logits are not finite, or `each` fails.
    pub fn score(&mut self, tokens: &[u32], mut each: impl FnMut(u32, &[f32]) -> Result<()>) -> Result<()> {
        self.model.check_tokens(tokens)?;
        let (model, team) = (Arc::clone(&self.model), Arc::clone(&self.team));
        let (config, weights, kernels) = (model.config(), model.weights(), model.kernels());
        let (length, hidden) = (config.block_length, config.block_decoder.hidden);
        let mut padded = vec![PAD_TOKEN; tokens.len().next_multiple_of(length) - tokens.len()];
        padded.extend(tokens);
        let (mut contexts, mut done) = (Vec::new(), length);
        self.blocks.clear();
        // The last block predicts nothing that is known.
        let known = padded.len().saturating_sub(length);
        for batch in padded[..known].chunks(BATCH * length) {
            contexts.clear();
            let blocks = &mut self.blocks;
            let stream = team.region(|crew| blocks.forward(crew, kernels, config, weights, batch));
            contexts.extend_from_slice(stream);
            for slab in contexts.chunks(SLAB * hidden) {
                let targets = &padded[done..done + slab.len() / hidden * length];
                done += targets.len();
                self.logits.resize(targets.len() * config.vocabulary, 0.0);
                let (decoder, logits) = (&mut self.tokens, &mut self.logits[..]);
                team.region(|crew| {
                    decoder.teacher_forced(crew, kernels, config, weights, slab, targets, logits);
                });
                check_finite(&self.logits)?;
                for (target, logits) in targets.iter().zip(self.logits.chunks_exact(config.vocabulary)) {
                    each(*target, logits)?;
                }
            }
        }
        Ok(())
    }
}

/// Negative log-likelihood of `target` under softmax of `logits`, in f64.
pub fn negative_log_likelihood(logits: &[f32], target: u32) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    sum.ln() - f64::from(logits[target as usize] - most)
}
