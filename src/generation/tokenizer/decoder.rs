//! The decoders of the tokenizers crate, token by token: the same text, as early as it is certain, in bounded memory.

use std::sync::{Arc, LazyLock};

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::strip::Strip;
use tokenizers::{Decoder as _, Result};

/// One step from tokens to text. It takes elements, strings that the steps before have made, and passes on others; after
/// the first step that joins all elements, those are chunks of one string.
#[derive(Clone)]
pub(super) enum Stage {
    /// No decoder at all: elements with spaces between them.
    Spaces { first: bool },
    /// Decoders that treat every element alone and at most the first one differently: Replace, `Metaspace`, `WordPiece`.
    Each { decoder: Arc<DecoderWrapper>, first: bool },
    /// Metaspace for chunks, which all belong to the first element.
    Chunks(Arc<DecoderWrapper>),
    /// CTC: an element that repeats the previous one is left out.
    Repeats { decoder: Arc<DecoderWrapper>, previous: Option<String> },
    /// BPE with a suffix at the end of words: a space, but not after the last element. Holds the end of an element: as
    /// the text's last one, and as one that another follows.
    Suffix { suffix: String, held: Option<(String, String)> },
    /// Strips every element.
    Strip(Strip),
    /// Strips one string that comes in chunks: characters that may yet be stripped from its start, and those held
    /// back because they may be its end.
    StripChunks { strip: Strip, start: usize, held: usize },
    /// Characters that stand for bytes, which are joined to UTF-8. Holds the bytes of an incomplete character.
    Bytes(Vec<u8>),
    /// Tokens like `<0x0A>`, of which a row is UTF-8 as a whole or not at all. Holds the row.
    Fallback(Vec<u8>),
}

/// The stages of a decoder; `None` if its text is only known once all tokens are.
pub(super) fn stages(decoder: Option<&DecoderWrapper>) -> Option<Vec<Stage>> {
    let Some(decoder) = decoder else { return Some(vec![Stage::Spaces { first: true }]) };
    let mut kinds = Vec::new();
    flatten(decoder, &mut kinds);
    let mut stages = Vec::new();
    // Whether the elements are chunks of one string.
    let mut joined = false;
    for (index, kind) in kinds.iter().enumerate() {
        let decoder = || Arc::new((*kind).clone());
        stages.push(match (kind, joined) {
            (DecoderWrapper::Fuse(_), _) => {
                joined = true;
                continue;
            }
            (DecoderWrapper::ByteLevel(_), false) => {
                joined = true;
                Stage::Bytes(Vec::new())
            }
            (DecoderWrapper::WordPiece(word), true) if !word.cleanup => continue,
            (DecoderWrapper::Metaspace(_), true) => Stage::Chunks(decoder()),
            (DecoderWrapper::Strip(strip), true) => {
                Stage::StripChunks { strip: strip.clone(), start: strip.start, held: 0 }
            }
            (DecoderWrapper::Strip(strip), false) => Stage::Strip(strip.clone()),
            (
                DecoderWrapper::Replace(_) | DecoderWrapper::Metaspace(_) | DecoderWrapper::WordPiece(_),
                false,
            ) => Stage::Each { decoder: decoder(), first: true },
            (DecoderWrapper::CTC(_), false) => Stage::Repeats { decoder: decoder(), previous: None },
            (DecoderWrapper::ByteFallback(_), false) => Stage::Fallback(Vec::new()),
            (DecoderWrapper::BPE(bpe), false) if index + 1 == kinds.len() => {
                Stage::Suffix { suffix: bpe.suffix.clone(), held: None }
            }
            _ => return None,
        });
    }
    Some(stages)
}

/// Whether a decoder can be asked for the text of no tokens, which may be one where a step makes one string of all tokens:
/// `BPEDecoder` counts on a token.
pub(super) fn takes_nothing(decoder: Option<&DecoderWrapper>) -> bool {
    let mut kinds = Vec::new();
    decoder.into_iter().for_each(|decoder| flatten(decoder, &mut kinds));
    let joins =
        |kind: &&DecoderWrapper| matches!(kind, DecoderWrapper::Fuse(_) | DecoderWrapper::ByteLevel(_));
    kinds.into_iter().take_while(|kind| !joins(kind)).all(|kind| !matches!(kind, DecoderWrapper::BPE(_)))
}

pub(super) fn flatten<'d>(decoder: &'d DecoderWrapper, kinds: &mut Vec<&'d DecoderWrapper>) {
    match decoder {
        DecoderWrapper::Sequence(sequence) => {
            sequence.get_decoders().iter().for_each(|decoder| flatten(decoder, kinds));
        }
        one => kinds.push(one),
    }
}

/// Passes an element through the stages; what comes out is added to `text`.
pub(super) fn feed(stages: &mut [Stage], element: String, text: &mut String) -> Result<()> {
    let Some((stage, rest)) = stages.split_first_mut() else {
        text.push_str(&element);
        return Ok(());
    };
    match stage {
        Stage::Spaces { first } => {
            let space = if std::mem::take(first) { "" } else { " " };
            feed(rest, format!("{space}{element}"), text)
        }
        Stage::Each { decoder, first } => {
            let elements = if std::mem::take(first) { vec![element] } else { vec!["a".into(), element] };
            feed(rest, decoder.decode_chain(elements)?.pop().unwrap_or_default(), text)
        }
        Stage::Chunks(decoder) => feed(rest, decoder.decode_chain(vec![element])?.concat(), text),
        Stage::Repeats { decoder, previous } => {
            if previous.as_ref() == Some(&element) {
                return Ok(());
            }
            *previous = Some(element.clone());
            decoder.decode_chain(vec![element])?.into_iter().try_for_each(|element| feed(rest, element, text))
        }
        Stage::Suffix { suffix, held } => {
            let (last, followed) = (element.replace(&*suffix, ""), element.replace(&*suffix, " "));
            let same = last.chars().zip(followed.chars()).take_while(|(a, b)| a == b);
            let same = same.map(|(a, _)| a.len_utf8()).sum::<usize>();
            if let Some((_, followed)) = held.replace((last[same..].into(), followed[same..].into())) {
                feed(rest, followed, text)?;
            }
            feed(rest, last[..same].into(), text)
        }
        Stage::Strip(strip) => feed(rest, stripped(strip, &element).into(), text),
        Stage::StripChunks { strip, start, held } => {
            let mut chunk = String::new();
            for character in element.chars() {
                if character != strip.content {
                    chunk.extend(std::iter::repeat_n(strip.content, std::mem::take(held)));
                    chunk.push(character);
                    *start = 0;
                } else if *start > 0 {
                    *start -= 1;
                } else if *held < strip.stop {
                    *held += 1;
                } else {
                    chunk.push(character);
                }
            }
            feed(rest, chunk, text)
        }
        Stage::Bytes(held) => {
            push_bytes(&element, held);
            let chunk = complete(held);
            feed(rest, chunk, text)
        }
        Stage::Fallback(row) => match byte(&element) {
            Some(byte) => {
                row.push(byte);
                Ok(())
            }
            None => {
                end_row(std::mem::take(row), rest, text)?;
                feed(rest, element, text)
            }
        },
    }
}

/// Adds the text that was held back, as no more tokens come.
pub(super) fn finish(stages: &mut [Stage], text: &mut String) -> Result<()> {
    end(stages, true, text)
}

/// Ends the text of a context: the bytes of a character that it leaves incomplete are its own, and everything else
/// that comes out later belongs to what follows.
pub(super) fn cut(stages: &mut [Stage]) -> Result<()> {
    end(stages, false, &mut String::new())
}

fn end(stages: &mut [Stage], last: bool, text: &mut String) -> Result<()> {
    let mut stages = stages;
    while let Some((stage, rest)) = stages.split_first_mut() {
        match stage {
            Stage::Bytes(held) => {
                let chunk = String::from_utf8_lossy(&std::mem::take(held)).into_owned();
                feed(rest, chunk, text)?;
            }
            Stage::Fallback(row) => end_row(std::mem::take(row), rest, text)?,
            Stage::Suffix { held, .. } if last => {
                if let Some((end, _)) = held.take() {
                    feed(rest, end, text)?;
                }
            }
            // The end of a word that the context has already; only what another token would add to it is still to come.
            Stage::Suffix { held: Some((end, followed)), .. } => {
                if let Some(added) = followed.strip_prefix(&**end) {
                    *followed = added.to_string();
                }
                end.clear();
            }
            _ => {}
        }
        stages = rest;
    }
    Ok(())
}

/// Takes the characters of a token from the start and from the end, as many as there may be.
fn stripped<'e>(strip: &Strip, element: &'e str) -> &'e str {
    let mut text = element;
    for _ in 0..strip.start {
        let Some(rest) = text.strip_prefix(strip.content) else { break };
        text = rest;
    }
    for _ in 0..strip.stop {
        let Some(rest) = text.strip_suffix(strip.content) else { break };
        text = rest;
    }
    text
}

/// The byte that a token of the ByteFallback decoder stands for.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Passes on a row of byte tokens that has ended.
fn end_row(row: Vec<u8>, rest: &mut [Stage], text: &mut String) -> Result<()> {
    if row.is_empty() {
        return Ok(());
    }
    match String::from_utf8(row) {
        Ok(element) => feed(rest, element, text),
        Err(error) => {
            let row = error.into_bytes();
            row.iter().try_for_each(|_| feed(rest, "\u{fffd}".into(), text))
        }
    }
}

/// GPT-2's characters for bytes: those that can be seen stand for themselves, the others for 256 and more.
static BYTES: LazyLock<[Option<u8>; 512]> = LazyLock::new(|| {
    let mut bytes = [None; 512];
    let mut next = 256;
    for byte in 0..=255u8 {
        let seen = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let place = if seen { usize::from(byte) } else { next };
        next += usize::from(!seen);
        bytes[place] = Some(byte);
    }
    bytes
});

/// Adds the bytes that a token stands for: those of its text, if a character of it stands for none.
fn push_bytes(token: &str, bytes: &mut Vec<u8>) {
    let before = bytes.len();
    for character in token.chars() {
        match BYTES.get(character as usize).copied().flatten() {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(before);
                return bytes.extend_from_slice(token.as_bytes());
            }
        }
    }
}

/// Takes whole characters from the front, U+FFFD for what is none; leaves the beginning of one.
fn complete(bytes: &mut Vec<u8>) -> String {
    let incomplete = bytes.utf8_chunks().last().map_or(0, |chunk| {
        let invalid = chunk.invalid();
        match std::str::from_utf8(invalid) {
            Err(error) if error.error_len().is_none() => invalid.len(),
            _ => 0,
        }
    });
    let rest = bytes.split_off(bytes.len() - incomplete);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}
