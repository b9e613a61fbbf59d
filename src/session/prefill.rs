//! Texts to contexts: whole blocks through the block decoder, as many sequences in a pass as have something to add.

use super::engine::{Engine, Sequence};
use crate::error::Result;
use crate::model::{BATCH, PAD_TOKEN, Segment};

/// A text on its way into a sequence.
pub struct Append<'a> {
    /// The sequence.
    pub sequence: &'a mut Sequence,
    /// What is still to be added. The whole of a first text is given at once: its length decides on its padding.
    pub tokens: &'a [u32],
}

impl Append<'_> {
    /// Tokens that go before a first text.
    fn padding(&self) -> usize {
        let first = self.sequence.is_empty() && !self.tokens.is_empty();
        if first { self.sequence.padding(self.tokens.len()) } else { 0 }
    }

    /// Blocks that are whole: the open one first.
    fn blocks(&self) -> usize {
        (self.padding() + self.sequence.open.len() + self.tokens.len()) / self.sequence.block_length
    }

    /// Notes that whole blocks, the open one first, have been added to the cache. `context` is the last one's column.
    fn take(&mut self, added: &[u32], context: &[f32], blocks: usize) {
        let sequence = &mut *self.sequence;
        // The cache counts the blocks already.
        let first = sequence.blocks() == blocks as u64 && sequence.open.is_empty();
        let padding = if first { sequence.padding(self.tokens.len()) } else { 0 };
        self.tokens = &self.tokens[added.len() - padding - sequence.open.len()..];
        sequence.context.copy_from_slice(context);
        sequence.note(added);
        sequence.open.clear();
        sequence.opened = false;
    }
}

impl Engine {
    /// Adds a text to one sequence, in time proportional to its length.
    ///
    /// # Errors
    /// If a token is not in the vocabulary; then nothing was added. `Interrupted` on request, within a layer; then the
    /// blocks that were done by then have been added.
    pub fn append(&mut self, sequence: &mut Sequence, tokens: &[u32]) -> Result<()> {
        self.model.check_tokens(tokens)?;
        let texts = &mut [Append { sequence, tokens }];
        loop {
            self.pass(texts, BATCH, true)?;
            if texts[0].tokens.is_empty() {
                return Ok(());
            }
        }
    }

    /// Adds up to `blocks` blocks of several texts in one pass over the weights, the first texts first. Each text's
    /// `tokens` become what is left of it; what is less than a block needs no pass.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, or `Interrupted` on request; then nothing was added.
    pub fn append_pass(&mut self, texts: &mut [Append<'_>], blocks: usize) -> Result<()> {
        for text in texts.iter() {
            self.model.check_tokens(text.tokens)?;
        }
        self.pass(texts, blocks, true)
    }

    pub(super) fn pass(&mut self, texts: &mut [Append<'_>], mut most: usize, stoppable: bool) -> Result<()> {
        let Engine { model, team, blocks: decoder, interrupt, completed, columns, .. } = self;
        completed.clear();
        columns.clear();
        for text in texts.iter() {
            let blocks = text.blocks().min(most).min(text.sequence.blocks.room());
            most -= blocks;
            columns.push(blocks);
            let end = completed.len() + blocks * text.sequence.block_length;
            if blocks > 0 {
                completed.extend(std::iter::repeat_n(PAD_TOKEN, text.padding()));
                completed.extend(&text.sequence.open);
                completed.extend(&text.tokens[..end - completed.len()]);
            }
        }
        if !completed.is_empty() {
            let interrupt = stoppable.then_some(&*interrupt);
            team.region(|region| {
                let stream = if let [text] = &mut *texts {
                    let segment = Segment::ending(columns[0], &mut text.sequence.blocks);
                    decoder.forward(region, model, completed, &mut [segment], interrupt)?
                } else {
                    let segments = texts.iter_mut().zip(&*columns).filter(|(_, blocks)| **blocks > 0);
                    let segments =
                        segments.map(|(text, blocks)| Segment::ending(*blocks, &mut text.sequence.blocks));
                    decoder.forward(region, model, completed, &mut segments.collect::<Vec<_>>(), interrupt)?
                };
                let contexts = stream.chunks_exact(model.config().block_decoder.hidden);
                let mut tokens = &completed[..];
                let added = texts.iter_mut().zip(&*columns).filter(|(_, blocks)| **blocks > 0);
                for ((text, &blocks), context) in added.zip(contexts) {
                    let (added, others) = tokens.split_at(blocks * text.sequence.block_length);
                    tokens = others;
                    text.take(added, context, blocks);
                }
                Ok(())
            })?;
        }
        for text in texts.iter_mut().filter(|text| text.blocks() == 0) {
            text.sequence.open.extend(text.tokens);
            text.tokens = &[];
        }
        Ok(())
    }
}
