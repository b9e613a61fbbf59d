//! Prefill: whole blocks of text through the block decoder, with as many sequences in a pass as have text to add.

use super::engine::Engine;
use super::sequence::Sequence;
use crate::error::Result;
use crate::memory::reserve;
use crate::model::{BATCH, PAD_TOKEN, Segment};

/// Tokens to be added to a sequence.
pub struct Append<'a> {
    /// The sequence.
    pub sequence: &'a mut Sequence,
    /// The tokens that are not added yet. All of a first text is given at once: its length decides its padding.
    pub tokens: &'a [u32],
}

impl Append<'_> {
    /// Tokens of padding before a first text.
    fn padding(&self) -> usize {
        self.sequence.padding_of(self.tokens)
    }

    /// Tokens of padding that the first block of the next pass begins with.
    fn masked(&self) -> usize {
        self.padding() + self.sequence.open.padding()
    }

    /// Whole blocks, the open one first.
    fn blocks(&self) -> usize {
        let open = &self.sequence.open;
        (self.padding() + open.tokens().len() + self.tokens.len()) / open.length()
    }

    /// Notes that whole blocks of tokens `added`, the open block first, have entered the cache. `context` is the last
    /// one's column.
    fn advance(&mut self, added: &[u32], context: &[f32]) {
        let open = &self.sequence.open;
        // The cache counts the blocks already.
        let blocks = (added.len() / open.length()) as u64;
        let first = self.sequence.blocks() == blocks && open.tokens().is_empty();
        let padding = if first { self.sequence.padding(self.tokens.len()) } else { 0 };
        self.tokens = &self.tokens[added.len() - padding - open.tokens().len()..];
        let masked = padding + open.padding();
        self.sequence.note(added, masked, context);
    }
}

impl Engine {
    /// Adds tokens to one sequence, in time proportional to their number.
    ///
    /// # Errors
    /// If the sequence is another model's or a token is not in the vocabulary; then nothing was added. `Interrupted` on
    /// request, between two layers, and `Resource` if there is no memory for a pass; then the blocks of the passes
    /// before have been added.
    pub fn append(&mut self, sequence: &mut Sequence, tokens: &[u32]) -> Result<()> {
        self.check_own(sequence)?;
        self.model().check_tokens(tokens)?;
        let appends = &mut [Append { sequence, tokens }];
        loop {
            self.pass(appends, BATCH, true)?;
            if appends[0].tokens.is_empty() {
                return Ok(());
            }
        }
    }

    /// Adds up to `blocks` blocks to several sequences in one pass over the weights, the first ones first. The `tokens`
    /// of each become those that are left; less than a block needs no pass.
    ///
    /// # Errors
    /// If a sequence is another model's or a token is not in the vocabulary; `Interrupted` on request; `Resource` if
    /// there is no memory for the pass. Then nothing was added.
    pub fn append_pass(&mut self, appends: &mut [Append<'_>], blocks: usize) -> Result<()> {
        for append in appends.iter() {
            self.check_own(append.sequence)?;
            self.model().check_tokens(append.tokens)?;
        }
        self.pass(appends, blocks, true)
    }

    pub(super) fn pass(
        &mut self,
        appends: &mut [Append<'_>],
        mut max: usize,
        interruptible: bool,
    ) -> Result<()> {
        let Engine { runtime, block_decoder: decoder, interrupt, completed, columns, .. } = self;
        let model = runtime.model();
        completed.clear();
        columns.clear();
        reserve(columns, appends.len(), "columns of a pass")?;
        for append in appends.iter() {
            let open = &append.sequence.open;
            let blocks = append.blocks().min(max).min(append.sequence.cache.room());
            max -= blocks;
            columns.push(blocks);
            let end = completed.len() + blocks * open.length();
            if blocks > 0 {
                reserve(completed, end, "tokens of a pass")?;
                completed.extend(std::iter::repeat_n(PAD_TOKEN, append.padding()));
                completed.extend(open.tokens());
                completed.extend(&append.tokens[..end - completed.len()]);
            }
        }
        if !completed.is_empty() {
            let interrupt = interruptible.then_some(&*interrupt);
            runtime.team().region(|region| {
                let stream = if let [append] = &mut *appends {
                    let padding = append.masked();
                    let segment =
                        Segment::ending(columns[0], append.sequence.cache_for_pass()).padded(padding);
                    decoder.forward(region, model, completed, &mut [segment], interrupt)?
                } else {
                    let moving = appends.iter_mut().zip(&*columns).filter(|(_, blocks)| **blocks > 0);
                    let segments = moving.map(|(append, blocks)| {
                        let padding = append.masked();
                        Segment::ending(*blocks, append.sequence.cache_for_pass()).padded(padding)
                    });
                    decoder.forward(region, model, completed, &mut segments.collect::<Vec<_>>(), interrupt)?
                };
                let contexts = stream.chunks_exact(model.config().block_decoder.hidden);
                let mut tokens = &completed[..];
                let moving = appends.iter_mut().zip(&*columns).filter(|(_, blocks)| **blocks > 0);
                for ((append, blocks), context) in moving.zip(contexts) {
                    let (added, others) = tokens.split_at(blocks * append.sequence.open.length());
                    tokens = others;
                    append.advance(added, context);
                }
                Ok(())
            })?;
        }
        for append in appends.iter_mut().filter(|append| append.blocks() == 0) {
            append.sequence.open.extend(append.tokens);
            append.tokens = &[];
        }
        Ok(())
    }
}
