//! Learns a draft table: the likeliest tokens after each pair of tokens, counted in a text and in texts that the model
//! writes itself. A sampled text follows the model's own habits more closely than those of the text it learned from.

use std::collections::HashMap;
use std::path::Path;

use cinderblock::unstable::gguf::{Array, Value, ValueType};
use cinderblock::unstable::model::{DraftEntry, NO_TOKEN, draft_keys};
use cinderblock::{Error, Generator, Model, Result, Runtime, SamplerOptions, SessionOptions, Tokenizer};

use crate::arguments::read_text;
use crate::progress::Progress;
use crate::{input, interrupt};

/// Bytes of an entry in a file: its context, two tokens and a share.
const ENTRY_BYTES: usize = 9;
/// The table takes at most one part in this many of the file.
const PART: usize = 34;
/// Texts that the model writes together.
const STREAMS: usize = 32;
/// Blocks of each text.
const BLOCKS: usize = 128;
/// Tokens of the given text that each begins with.
const PROMPT: usize = 16;
/// Tokens that the model writes unless told otherwise.
const WRITTEN: usize = 1 << 17;
/// The same for models with more than [`LARGE`] bytes.
const WRITTEN_BY_LARGE: usize = 1 << 14;
const LARGE: usize = 200_000_000;
/// A pair whose first token is about as probable as without its first half, and whose tokens are the same, is left out.
const SAME: f64 = 0.08;

/// The arrays of a table, little-endian.
pub struct Table {
    entries: usize,
    contexts: Vec<u8>,
    tokens: Vec<u8>,
    shares: Vec<u8>,
}

impl Table {
    /// Learns the table of a model from a file of text.
    ///
    /// # Errors
    /// If the text cannot be read, the model has no tokenizer or too large a vocabulary, or there is no memory to run
    /// it; `Interrupted` by a signal.
    pub fn learn(
        model: Model,
        path: &Path,
        written: Option<usize>,
        progress: &dyn Progress,
    ) -> Result<Table> {
        let vocabulary = model.config().vocabulary;
        if vocabulary > NO_TOKEN as usize {
            let (found, most) = (format!("a vocabulary of {vocabulary}"), format!("at most {NO_TOKEN}"));
            return Err(Error::mismatch("--draft", found, most));
        }
        let text = read_text(path, input::TEXT)?;
        let text = Tokenizer::of_model(&model)?.encode(&text)?;
        model.check_tokens(&text)?;
        if text.len() < PROMPT {
            let (found, least) = (format!("{} tokens", text.len()), format!("at least {PROMPT}"));
            return Err(Error::mismatch("text", found, least).in_file(input::name(path)));
        }
        let large = model.file_bytes() > LARGE;
        let written = written.unwrap_or(if large { WRITTEN_BY_LARGE } else { WRITTEN });
        let most = model.file_bytes() / PART / ENTRY_BYTES;
        let mut texts = write(&Runtime::new(model, 0)?, &text, written, progress)?;
        texts.push(text);
        Ok(Table::new(&entries(&texts, most)))
    }

    /// The table of entries in ascending order.
    pub fn new(entries: &[DraftEntry]) -> Table {
        Table {
            entries: entries.len(),
            contexts: entries.iter().flat_map(|entry| entry.context.to_le_bytes()).collect(),
            tokens: entries.iter().flat_map(|entry| entry.tokens).flat_map(u16::to_le_bytes).collect(),
            shares: entries.iter().map(|entry| entry.share).collect(),
        }
    }

    /// Number of contexts.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Its keys and values in a file.
    pub fn values(&self) -> [(&'static str, Option<Value<'_>>); 3] {
        [
            (draft_keys::CONTEXTS, ValueType::U32, &self.contexts),
            (draft_keys::TOKENS, ValueType::U16, &self.tokens),
            (draft_keys::SHARES, ValueType::U8, &self.shares),
        ]
        .map(|(key, element, bytes)| (key, Array::of(element, bytes).map(Value::Array)))
    }
}

/// Texts of the model itself, of `count` tokens together, each from another place of `text` on.
fn write(runtime: &Runtime, text: &[u32], count: usize, progress: &dyn Progress) -> Result<Vec<Vec<u32>>> {
    let length = BLOCKS * runtime.model().config().block_length - PROMPT;
    let texts = count.div_ceil(length);
    let options = SessionOptions { cache_blocks: Some(BLOCKS), sink_blocks: 0, ..SessionOptions::default() };
    progress.begin("writing texts", count as u64);
    let mut written = Vec::new();
    for first in (0..texts).step_by(STREAMS) {
        let streams = first..texts.min(first + STREAMS);
        let start = |stream: usize| -> Result<Generator> {
            let at = (text.len() - PROMPT) * stream / texts;
            let mut generator = runtime.generator(&options)?;
            generator.set_sampler(SamplerOptions { seed: stream as u64, ..SamplerOptions::default() })?;
            generator.append(&text[at..at + PROMPT])?;
            Ok(generator)
        };
        let mut generators = streams.clone().map(start).collect::<Result<Vec<_>>>()?;
        let mut generators: Vec<&mut Generator> = generators.iter_mut().collect();
        let mut parts = vec![Vec::with_capacity(length); streams.len()];
        let mut tokens = Vec::new();
        for _ in 0..length.min((count - first * length).div_ceil(streams.len())) {
            interrupt::check()?;
            Generator::next_tokens(&mut generators, &mut tokens)?;
            parts.iter_mut().zip(&tokens).for_each(|(part, token)| part.push(*token));
            progress.add(streams.len() as u64);
        }
        written.append(&mut parts);
    }
    progress.end();
    Ok(written)
}

/// The two likeliest tokens after a context, with their probabilities.
type Likeliest = Vec<(u16, f64)>;

/// The entries of at most `most` contexts: of all single tokens and of the most frequent pairs.
pub fn entries(texts: &[Vec<u32>], most: usize) -> Vec<DraftEntry> {
    let single = |window: &[u32]| (NO_TOKEN << 16 | window[0], window[1] as u16);
    let pair = |window: &[u32]| (window[0] << 16 | window[1], window[2] as u16);
    let mut after_one = HashMap::new();
    let mut found = Vec::new();
    for (context, count, likeliest) in counted(texts, 2, single, |_| None) {
        found.push((usize::MAX, count, entry(context, &likeliest)));
        after_one.insert(context & 0xffff, likeliest);
    }
    for (context, count, likeliest) in counted(texts, 3, pair, |context| after_one.get(&(context & 0xffff))) {
        let same = after_one.get(&(context & 0xffff)).is_some_and(|shorter| {
            let tokens = |likeliest: &Likeliest| [0, 1].map(|at| likeliest.get(at).map(|(token, _)| *token));
            tokens(shorter) == tokens(&likeliest) && (shorter[0].1 - likeliest[0].1).abs() < SAME
        });
        // What happened once may be an accident.
        if count > 1 && !same {
            found.push((count, count, entry(context, &likeliest)));
        }
    }
    found.sort_by_key(|(rank, count, entry)| (std::cmp::Reverse((*rank, *count)), entry.context));
    found.truncate(most);
    let mut entries: Vec<DraftEntry> = found.into_iter().map(|(_, _, entry)| entry).collect();
    entries.sort_by_key(|entry| entry.context);
    entries
}

fn entry(context: u32, likeliest: &Likeliest) -> DraftEntry {
    let (first, share) = likeliest[0];
    let second = likeliest.get(1).map_or(first, |(token, _)| *token);
    DraftEntry { context, tokens: [first, second], share: (share * 255.0).round() as u8 }
}

/// Every context of the texts, ascending, how often it is there, and what is likeliest after it: Witten-Bell smoothing
/// with what is likeliest after the shorter context.
fn counted<'s>(
    texts: &[Vec<u32>],
    length: usize,
    split: impl Fn(&[u32]) -> (u32, u16),
    shorter: impl Fn(u32) -> Option<&'s Likeliest>,
) -> Vec<(u32, usize, Likeliest)> {
    let mut all: Vec<(u32, u16)> = texts.iter().flat_map(|text| text.windows(length).map(&split)).collect();
    all.sort_unstable();
    let contexts = all.chunk_by(|a, b| a.0 == b.0).map(|same| {
        let context = same[0].0;
        let tokens: Vec<&[(u32, u16)]> = same.chunk_by(|a, b| a.1 == b.1).collect();
        let total = (same.len() + tokens.len()) as f64;
        let mut probable: Likeliest =
            tokens.iter().map(|token| (token[0].1, token.len() as f64 / total)).collect();
        for (token, share) in shorter(context).into_iter().flatten() {
            let more = share * tokens.len() as f64 / total;
            match probable.binary_search_by_key(token, |(token, _)| *token) {
                Ok(at) => probable[at].1 += more,
                Err(at) => probable.insert(at, (*token, more)),
            }
        }
        probable.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        probable.truncate(2);
        (context, same.len(), probable)
    });
    contexts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_kept_where_they_say_more_than_single_tokens() {
        let mut text = [1, 2, 3, 9, 2, 4].repeat(20);
        text.extend([1, 2, 3, 9, 2, 5]);
        let entries = entries(&[text], 100);
        assert!(entries.is_sorted_by_key(|entry| entry.context));
        let find = |context: u32| entries.iter().find(|entry| entry.context == context);
        assert_eq!(find(NO_TOKEN << 16 | 2).unwrap().tokens, [3, 4]);
        assert_eq!(find(1 << 16 | 2).unwrap().tokens[0], 3);
        assert_eq!(find(9 << 16 | 2).unwrap().tokens, [4, 5]);
        // After 3 there is always 9.
        assert_eq!(find(2 << 16 | 3), None);
    }

    #[test]
    fn a_small_table_keeps_single_tokens_first() {
        let text: Vec<u32> = (0..1000).map(|at| at * at % 7).collect();
        let entries = entries(&[text], 3);
        assert_eq!(entries.len(), 3);
        assert!(entries.iter().all(|entry| entry.context >> 16 == NO_TOKEN));
    }
}
