//! The log of blocks: the tokens of each block in the cache, and a digest of the text up to its end. Rewinding and
//! finding a common prefix read it.

use std::ops::Range;

use crate::error::Result;
use crate::memory::copy;

/// Tokens `[slots, block_length]` and digests `[slots]`, in the slots of the cache.
pub(crate) struct BlockLog {
    block_length: usize,
    tokens: Vec<u32>,
    digests: Vec<u64>,
}

/// The digest of no block (that of FNV-1a).
pub(crate) const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

/// The digest of a text of whole blocks: `digest` is that of all blocks but the last, `block` the last one's tokens.
pub(crate) fn extend(digest: u64, block: &[u32]) -> u64 {
    let bytes = block.iter().flat_map(|token| token.to_le_bytes());
    bytes.fold(digest, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The digest of an empty text after which `padding` tokens of padding come that the model masks.
pub(crate) fn padded(padding: usize) -> u64 {
    if padding == 0 { EMPTY } else { extend(EMPTY, &[padding as u32]) }
}

/// Bytes of a log of `slots` blocks.
pub(crate) fn bytes(slots: usize, block_length: usize) -> usize {
    slots.saturating_mul(4 * block_length + 8)
}

impl BlockLog {
    /// A log of `slots` blocks; `None` if it cannot be allocated.
    pub(crate) fn new(slots: usize, block_length: usize) -> Option<BlockLog> {
        let length = slots.checked_mul(block_length)?;
        let mut digests = Vec::new();
        digests.try_reserve_exact(slots).ok()?;
        digests.resize(slots, EMPTY);
        Some(BlockLog { block_length, tokens: bytemuck::try_zeroed_vec(length).ok()?, digests })
    }

    /// A copy.
    ///
    /// # Errors
    /// If its memory cannot be allocated.
    pub(crate) fn try_clone(&self) -> Result<BlockLog> {
        let (tokens, digests) = (copy(&self.tokens, "tokens of blocks")?, copy(&self.digests, "digests")?);
        Ok(BlockLog { block_length: self.block_length, tokens, digests })
    }

    /// Tokens of a block.
    pub(crate) fn block_length(&self) -> usize {
        self.block_length
    }

    fn range(&self, slot: usize) -> Range<usize> {
        slot * self.block_length..(slot + 1) * self.block_length
    }

    /// The tokens of a block.
    pub(crate) fn tokens(&self, slot: usize) -> &[u32] {
        &self.tokens[self.range(slot)]
    }

    /// The digest of the text up to the end of a block.
    pub(crate) fn digest(&self, slot: usize) -> u64 {
        self.digests[slot]
    }

    /// Notes a block.
    pub(crate) fn set(&mut self, slot: usize, tokens: &[u32], digest: u64) {
        let range = self.range(slot);
        self.tokens[range].copy_from_slice(tokens);
        self.digests[slot] = digest;
    }
}
