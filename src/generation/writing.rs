//! The part of an advance that writes: every text generates to the end of its open block, and all blocks end together.

use std::time::Instant;

use super::request::Event;
use super::running::Running;
use super::shared_speculation::SharedSpeculation;
use crate::error::Result;
use crate::session::{Engine, Sequence};

/// Generates to the end of the open block of each text that is written.
///
/// # Errors
/// As [`Engine::logits`] and [`Engine::append_each`]. The tokens that were passed on stay, and the texts can go on from
/// there.
pub(super) fn write(
    engine: &mut Engine,
    texts: &mut [Running],
    speculation: &mut SharedSpeculation,
    each: &mut impl FnMut(u64, Event),
) -> Result<()> {
    let result = fill(engine, texts, speculation, each);
    let result = result.and_then(|()| close(engine, texts, speculation, each));
    if result.is_err() {
        texts.iter_mut().filter(|text| text.is_writing()).for_each(Running::undo);
    }
    result
}

/// Passes of the token decoder, until each text has chosen the last token of its block. The tokens before it are taken
/// at once.
fn fill(
    engine: &mut Engine,
    texts: &mut [Running],
    speculation: &mut SharedSpeculation,
    each: &mut impl FnMut(u64, Event),
) -> Result<()> {
    loop {
        texts.iter_mut().filter(|text| text.needs_logits()).for_each(|text| text.check_end(each));
        let mut texts: Vec<&mut Running> = texts.iter_mut().filter(|text| text.needs_logits()).collect();
        if texts.is_empty() {
            return Ok(());
        }
        let pass = speculation.guess(&mut texts);
        let started = Instant::now();
        let (mut sequences, guesses) = parts(&mut texts);
        let logits = engine.logits(&mut sequences, &guesses)?;
        speculation.note(pass, started.elapsed().as_secs_f64());
        let mut row = 0;
        for text in texts {
            let (rows, before) = (1 + text.guess.len(), text.completion.count());
            text.draw(&logits, row, each);
            row += rows;
            speculation.note_tokens(text.completion.count() - before);
        }
    }
}

/// The pass of the block decoder.
fn close(
    engine: &mut Engine,
    texts: &mut [Running],
    speculation: &mut SharedSpeculation,
    each: &mut impl FnMut(u64, Event),
) -> Result<()> {
    let mut texts: Vec<&mut Running> = texts.iter_mut().filter(|text| text.pending.is_some()).collect();
    let tokens: Vec<u32> = texts.iter().filter_map(|text| text.pending).collect();
    let pass = speculation.guess_ahead(&mut texts);
    let started = Instant::now();
    let (mut sequences, guesses) = parts(&mut texts);
    engine.append_each_with_guesses(&mut sequences, &tokens, &guesses)?;
    speculation.note_added(pass, started.elapsed().as_secs_f64());
    speculation.note_tokens(texts.len());
    for text in texts {
        text.pending = None;
        text.take_choice(false, each);
    }
    Ok(())
}

/// The sequences of texts, and their guesses.
fn parts<'t>(texts: &'t mut [&mut Running]) -> (Vec<&'t mut Sequence>, Vec<&'t [u32]>) {
    texts.iter_mut().map(|text| (&mut text.sequence, &text.guess[..])).unzip()
}
