//! What two sequences have in common: a new one can begin with the blocks that another has read.

use super::sequence::Sequence;

impl Sequence {
    /// Whether every block is in the cache.
    pub(crate) fn is_complete(&self) -> bool {
        let shape = self.cache.shape();
        self.blocks() <= (shape.sinks + shape.window) as u64
    }

    /// Whether the whole blocks of another sequence, which is complete as this one, are the first ones of this.
    pub(crate) fn begins_with(&self, other: &Sequence) -> bool {
        let blocks = other.blocks();
        self.alike(other)
            && blocks > 0
            && blocks <= self.blocks()
            && self.log.digest(self.cache.geometry().slot(blocks - 1)) == other.digest
    }

    /// The whole blocks of a prompt that this empty sequence can take from another, and the tokens in them. At least one
    /// block of the prompt is left to be read, because the context after it is not kept.
    pub(crate) fn shared(&self, other: &Sequence, prompt: &[u32]) -> (u64, usize) {
        let (length, padding) = (self.open.length(), self.padding(prompt.len()));
        let whole = ((padding + prompt.len()) / length) as u64;
        let shape = self.cache.shape();
        if !self.is_empty()
            || !self.alike(other)
            || !other.is_complete()
            || whole > (shape.sinks + shape.window) as u64
        {
            return (0, 0);
        }
        let (blocks, _) = other.common_prefix(prompt);
        let blocks = blocks.min(whole.saturating_sub(1));
        (blocks, (blocks as usize * length).saturating_sub(padding))
    }

    /// Takes the first blocks of another sequence, as [`Sequence::shared`] counts them.
    pub(crate) fn begin_as(&mut self, other: &Sequence, blocks: u64) {
        self.clear();
        if blocks == 0 {
            return;
        }
        self.cache.copy_start(&other.cache, blocks as usize);
        for position in 0..blocks {
            let slot = self.cache.geometry().slot(position);
            self.digest = other.log.digest(slot);
            self.log.set(slot, other.log.tokens(slot), self.digest);
        }
    }

    /// Whether blocks of another sequence mean the same here.
    fn alike(&self, other: &Sequence) -> bool {
        let (own, others) = (self.cache.shape(), other.cache.shape());
        self.model == other.model
            && self.alignment == other.alignment
            && self.cache.kind() == other.cache.kind()
            && own.sinks == others.sinks
    }
}
