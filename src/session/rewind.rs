//! Rewinding a sequence to the end of an earlier block.

use super::block_log::EMPTY;
use super::engine::Engine;
use super::prefill::Append;
use super::sequence::Sequence;
use crate::error::{Error, Result};
use crate::model::BATCH;

impl Engine {
    /// Rewinds a sequence to its first `blocks` whole blocks, as if nothing had been added since.
    ///
    /// # Errors
    /// If [`Sequence::can_rewind`] is false; then nothing has changed. A full cache can be rewound by at least 32
    /// blocks, however small it is. `Resource` if there is no memory for the pass; then the sequence has one whole block
    /// less than asked for.
    pub fn rewind(&mut self, sequence: &mut Sequence, blocks: u64) -> Result<()> {
        self.check_own(sequence)?;
        if !sequence.can_rewind(blocks) {
            let last = sequence.blocks();
            let first = sequence.cache.geometry().first_end().min(last);
            return Err(Error::argument(format!(
                "rewind: found block {blocks}, expected 0, a pinned one, or one from {first} to {last}"
            )));
        }
        if blocks == 0 {
            sequence.clear();
        }
        sequence.open.clear();
        if blocks < sequence.blocks() {
            // The last block's context is not kept; its tokens give it again.
            let slot = sequence.cache.geometry().slot(blocks - 1);
            let digest = sequence.log.digest(slot);
            let tokens = sequence.log.tokens(slot).to_vec();
            sequence.cache_for_pass().rewind(blocks - 1);
            if blocks == 1 {
                sequence.open.note_padding(sequence.masked_padding(&tokens, digest));
            }
            sequence.digest = match blocks.checked_sub(2) {
                Some(last) => sequence.log.digest(sequence.cache.geometry().slot(last)),
                None => EMPTY,
            };
            if let Err(error) = self.pass(&mut [Append { sequence, tokens: &tokens }], BATCH, false) {
                sequence.open.clear();
                return Err(error);
            }
            sequence.digest = digest;
            sequence.log.set(slot, &tokens, digest);
        }
        Ok(())
    }
}
