//! Limits for what a tokenizer file chooses: how far its steps lengthen a text, and lengths that it states.

use std::cell::Cell;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::Value as Json;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{NormalizerWrapper, Replace};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{NormalizedString, Normalizer, Result};

use super::decoder;

/// How many times as long as a text what it becomes may be. Unicode's longest normalization makes 11 bytes of one.
const MAX_GROWTH: usize = 64;
/// Bytes that a short text may become.
const MIN_BYTES: usize = 1 << 20;
/// Steps of the pre-tokenizer, of which each may double the text.
const MAX_DOUBLINGS: u32 = 6;
/// Steps of any kind in a row.
const MAX_STEPS: usize = 1000;

thread_local! {
    /// Bytes that the normalizers may still make in this call; `None` after one that would have made more.
    static LEFT: Cell<Option<usize>> = const { Cell::new(Some(MIN_BYTES)) };
}

/// Runs a call in which texts of `bytes` bytes together are normalized.
///
/// # Errors
/// The call's, and if they would become too long.
pub(super) fn within<T>(bytes: usize, call: impl FnOnce() -> Result<T>) -> Result<T> {
    LEFT.set(Some(bytes.saturating_mul(MAX_GROWTH).max(MIN_BYTES)));
    let result = call();
    check_left()?;
    result
}

/// An error if the normalizers were stopped in this call; the crate passes over theirs.
pub(super) fn check_left() -> Result<()> {
    match LEFT.get() {
        Some(_) => Ok(()),
        None => Err(format!(
            "the normalizer makes a text too long: expected at most {MAX_GROWTH} times its length, or {MIN_BYTES} bytes"
        )
        .into()),
    }
}

/// A normalizer that stops before it makes a text too long.
pub(super) struct Bounded {
    steps: Vec<(NormalizerWrapper, Growth)>,
}

/// How a step lengthens a text: to at most `factor` times its bytes and `more`.
#[derive(Clone, Copy)]
struct Growth {
    factor: usize,
    more: usize,
}

impl Normalizer for Bounded {
    fn normalize(&self, text: &mut NormalizedString) -> Result<()> {
        for (step, growth) in &self.steps {
            let bytes = text.get().len().saturating_mul(growth.factor).saturating_add(growth.more);
            if LEFT.get().is_none_or(|left| bytes > left) {
                LEFT.set(None);
                return check_left();
            }
            step.normalize(text)?;
        }
        LEFT.set(LEFT.get().map(|left| left.saturating_sub(text.get().len())));
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Bounded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Bounded, D::Error> {
        let json = Json::deserialize(deserializer)?;
        let mut longest = 0;
        charsmaps(&json, &mut longest).map_err(D::Error::custom)?;
        let wrapper = NormalizerWrapper::deserialize(&json).map_err(D::Error::custom)?;
        let mut steps = Vec::new();
        flatten(wrapper, &mut steps);
        if steps.len() > MAX_STEPS {
            let found = steps.len();
            return Err(D::Error::custom(format!("found {found} normalizers, expected at most {MAX_STEPS}")));
        }
        let steps = steps.into_iter().map(|step| {
            let growth = growth(&step, longest);
            (step, growth)
        });
        Ok(Bounded { steps: steps.collect() })
    }
}

fn flatten(wrapper: NormalizerWrapper, steps: &mut Vec<NormalizerWrapper>) {
    match wrapper {
        NormalizerWrapper::Sequence(sequence) => {
            sequence.into_iter().for_each(|wrapper| flatten(wrapper, steps))
        }
        one => steps.push(one),
    }
}

/// The growth of a step; `longest` is the longest replacement of any map of characters.
fn growth(step: &NormalizerWrapper, longest: usize) -> Growth {
    match step {
        NormalizerWrapper::Replace(replace) => of_replace(replace),
        NormalizerWrapper::Prepend(prepend) => Growth { factor: 1, more: prepend.prepend.len() },
        NormalizerWrapper::Precompiled(_) => Growth { factor: longest.max(1), more: 0 },
        NormalizerWrapper::StripNormalizer(_) | NormalizerWrapper::StripAccents(_) => {
            Growth { factor: 1, more: 0 }
        }
        // Those of Unicode, and spaces around characters.
        _ => Growth { factor: 18, more: 0 },
    }
}

fn of_replace(replace: &Replace) -> Growth {
    let content = replace.content.len();
    // The crate shows the pattern as JSON alone.
    let json = serde_json::to_value(replace).unwrap_or_default();
    match serde_json::from_value(json["pattern"].clone()) {
        Ok(ReplacePattern::String(pattern)) if !pattern.is_empty() => {
            Growth { factor: content.div_ceil(pattern.len()).max(1), more: 0 }
        }
        // It may match between all characters.
        _ => Growth { factor: content.saturating_add(1), more: content },
    }
}

/// Checks the maps of characters in a normalizer, and finds their longest replacement. They begin with the bytes of a
/// trie, which the crate allocates without a look at the rest.
fn charsmaps(json: &Json, longest: &mut usize) -> std::result::Result<(), String> {
    match json {
        Json::Object(map) => map.iter().try_for_each(|(key, value)| match value {
            Json::String(text) if key == "precompiled_charsmap" => {
                // What is no base64 the crate refuses.
                let Ok(bytes) = base64::decode(text) else { return Ok(()) };
                let Some((size, rest)) = bytes.split_first_chunk() else { return Ok(()) };
                let size = u32::from_le_bytes(*size) as usize;
                if size > rest.len() {
                    let found = rest.len();
                    return Err(format!("precompiled_charsmap: found {found} bytes, expected {size}"));
                }
                let replacements = rest[size / 4 * 4..].split(|byte| *byte == 0);
                *longest = (*longest).max(replacements.map(<[u8]>::len).max().unwrap_or(0));
                Ok(())
            }
            value => charsmaps(value, longest),
        }),
        Json::Array(values) => values.iter().try_for_each(|value| charsmaps(value, longest)),
        _ => Ok(()),
    }
}

/// Checks the steps after the normalizer, whose growth does not depend on the text.
///
/// # Errors
/// If they may make a text more than [`MAX_GROWTH`] times as long.
pub(super) fn check(before: Option<&PreTokenizerWrapper>, after: Option<&DecoderWrapper>) -> Result<()> {
    let (mut doublings, mut steps) = (0, 0);
    if let Some(before) = before {
        count(before, &mut doublings, &mut steps);
    }
    if doublings > MAX_DOUBLINGS || steps > MAX_STEPS {
        return Err("the pre-tokenizer makes a text too long: found too many steps in a row".into());
    }
    let mut kinds = Vec::new();
    after.into_iter().for_each(|decoder| decoder::flatten(decoder, &mut kinds));
    let growths = kinds.iter().map(|kind| match kind {
        DecoderWrapper::Replace(replace) => {
            let Growth { factor, more } = of_replace(replace);
            factor.saturating_add(more)
        }
        // A space for nothing stands beside every character.
        DecoderWrapper::BPE(bpe) => 1 + usize::from(bpe.suffix.is_empty()),
        DecoderWrapper::CTC(ctc) => 1 + usize::from(ctc.word_delimiter_token.is_empty()),
        _ => 1,
    });
    let growth = growths.fold(1, usize::saturating_mul);
    if growth > MAX_GROWTH || kinds.len() > MAX_STEPS {
        return Err(format!(
            "the decoder makes a text too long: found {growth} times as long, expected at most {MAX_GROWTH}"
        )
        .into());
    }
    Ok(())
}

fn count(wrapper: &PreTokenizerWrapper, doublings: &mut u32, steps: &mut usize) {
    match wrapper {
        PreTokenizerWrapper::Sequence(sequence) => {
            sequence.as_ref().iter().for_each(|wrapper| count(wrapper, doublings, steps));
        }
        wrapper => {
            *steps += 1;
            let doubles =
                matches!(wrapper, PreTokenizerWrapper::ByteLevel(_) | PreTokenizerWrapper::Metaspace(_));
            *doublings += u32::from(doubles);
        }
    }
}
