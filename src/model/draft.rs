//! The draft table: how a text usually goes on after two tokens, or after one. It is an optional part of a file's
//! metadata, from which tokens are guessed; the model's own results do not depend on it.
#![forbid(unsafe_code)]

use super::config::Config;
use crate::error::{Error, Result};
use crate::gguf::Index;
use crate::memory::reserve;

/// The keys of the table.
pub mod keys {
    /// The contexts, ascending, as [`super::DraftEntry::context`].
    pub const CONTEXTS: &str = "blocktransformer.draft.contexts";
    /// Two tokens for each context, the likeliest first.
    pub const TOKENS: &str = "blocktransformer.draft.tokens";
    /// The probability of the first token for each context, in 255ths.
    pub const SHARES: &str = "blocktransformer.draft.shares";
    /// All of them.
    pub const ALL: [&str; 3] = [CONTEXTS, TOKENS, SHARES];
}

/// The number that stands for no token before the last one. Vocabularies with a table are at most this large.
pub const NO_TOKEN: u32 = 0xffff;

/// What usually follows a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftEntry {
    /// `before << 16 | last`; `before` is [`NO_TOKEN`] if the last token alone is the context.
    pub context: u32,
    /// The two likeliest tokens, the likeliest first. They may be equal.
    pub tokens: [u16; 2],
    /// Probability of the first token, in 255ths.
    pub share: u8,
}

/// A draft table: entries in ascending order of their contexts.
pub struct DraftTable {
    entries: Vec<DraftEntry>,
}

impl DraftTable {
    /// The table of a file, if it has one.
    ///
    /// # Errors
    /// If it is incomplete, not in order, or names tokens that are not in the vocabulary.
    pub(super) fn read(index: &Index, config: &Config) -> Result<Option<DraftTable>> {
        let Some(value) = index.get(keys::CONTEXTS) else { return Ok(None) };
        let count = value.as_array().ok_or_else(|| Error::mismatch(keys::CONTEXTS, value, "a list"))?.len();
        if config.vocabulary > NO_TOKEN as usize {
            return Err(Error::mismatch(
                keys::CONTEXTS,
                format!("a vocabulary of {}", config.vocabulary),
                format!("at most {NO_TOKEN}"),
            ));
        }
        let contexts = index.list(keys::CONTEXTS, count)?;
        let tokens = index.list(keys::TOKENS, count.saturating_mul(2))?;
        let shares = index.list(keys::SHARES, count)?;
        let mut entries: Vec<DraftEntry> = Vec::new();
        reserve(&mut entries, count, "draft table")?;
        let token = |value: u64| value < config.vocabulary as u64;
        let mut tokens = tokens.iter();
        let mut next_token = || {
            let value = tokens.next().ok_or_else(|| Error::format(keys::TOKENS))?;
            let expected = format!("a token of a vocabulary of {}", config.vocabulary);
            let found = value.as_u64().filter(|value| token(*value));
            found.map(|value| value as u16).ok_or_else(|| Error::mismatch(keys::TOKENS, value, expected))
        };
        for (context, share) in contexts.iter().zip(shares.iter()) {
            let before = |value: u64| value == u64::from(NO_TOKEN) || token(value);
            let known = |value: &u64| before(value >> 16) && token(value & 0xffff);
            let expected = "pairs of tokens in ascending order";
            let context = context
                .as_u64()
                .filter(known)
                .filter(|value| entries.last().is_none_or(|last| u64::from(last.context) < *value))
                .ok_or_else(|| Error::mismatch(keys::CONTEXTS, context, expected))?;
            let share = share
                .as_u64()
                .and_then(|share| u8::try_from(share).ok())
                .ok_or_else(|| Error::mismatch(keys::SHARES, share, "0 to 255"))?;
            entries.push(DraftEntry {
                context: context as u32,
                tokens: [next_token()?, next_token()?],
                share,
            });
        }
        Ok(Some(DraftTable { entries }))
    }

    /// What usually follows the two last tokens of a text, or else the last one.
    pub(crate) fn after(&self, before: Option<u32>, last: u32) -> Option<&DraftEntry> {
        let find = |before: u32| {
            let context = before << 16 | last;
            let found = self.entries.binary_search_by_key(&context, |entry| entry.context);
            found.ok().map(|at| &self.entries[at])
        };
        before.and_then(find).or_else(|| find(NO_TOKEN))
    }

    /// Number of contexts.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        self.entries.len() * size_of::<DraftEntry>()
    }
}
