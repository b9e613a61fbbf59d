//! One token for each of several texts, in passes that all of them share.

use crate::error::Result;
use crate::session::{Engine, Sequence};

/// A text that takes part in a step.
pub(crate) trait Writer {
    /// The sequence of the text.
    fn sequence(&mut self) -> &mut Sequence;

    /// Whether the logits of its next token are known, so that it takes no part in the pass that computes them.
    fn knows_logits(&self) -> bool {
        false
    }

    /// Chooses the next token from its logits, `[vocabulary]`, which are given unless they are known. `None` adds no
    /// token: the text ends, or fails alone.
    ///
    /// # Errors
    /// If all texts of the step should fail with this one.
    fn choose(&mut self, logits: Option<Result<&[f32]>>) -> Result<Option<u32>>;

    /// Takes the choice back, if there was one: the step failed.
    fn undo(&mut self);
}

impl<W: Writer> Writer for &mut W {
    fn sequence(&mut self) -> &mut Sequence {
        (**self).sequence()
    }

    fn knows_logits(&self) -> bool {
        (**self).knows_logits()
    }

    fn choose(&mut self, logits: Option<Result<&[f32]>>) -> Result<Option<u32>> {
        (**self).choose(logits)
    }

    fn undo(&mut self) {
        (**self).undo();
    }
}

/// Computes logits, lets every text choose a token, and adds the tokens; those that complete a block share one pass of
/// the block decoder.
///
/// # Errors
/// As [`Engine::logits`], [`Writer::choose`] and [`Engine::append_each`]. Then nothing was added to any text, and the
/// step can be taken again.
pub(crate) fn step<W: Writer>(engine: &mut Engine, writers: &mut [W]) -> Result<()> {
    let result = advance(engine, writers);
    if result.is_err() {
        writers.iter_mut().for_each(W::undo);
    }
    result
}

fn advance<W: Writer>(engine: &mut Engine, writers: &mut [W]) -> Result<()> {
    let mut tokens = Vec::with_capacity(writers.len());
    let mut unknown: Vec<&mut Sequence> =
        writers.iter_mut().filter(|writer| !writer.knows_logits()).map(W::sequence).collect();
    let logits = if unknown.is_empty() { None } else { Some(engine.logits(&mut unknown, &[])?) };
    let mut row = 0;
    for writer in writers.iter_mut() {
        let computed = logits.as_ref().filter(|_| !writer.knows_logits());
        let computed = computed.map(|logits| {
            row += 1;
            logits.row(row - 1)
        });
        tokens.push(writer.choose(computed)?);
    }
    let moving =
        writers.iter_mut().zip(&tokens).filter_map(|(writer, token)| Some((writer.sequence(), (*token)?)));
    let (mut sequences, tokens): (Vec<_>, Vec<_>) = moving.unzip();
    engine.append_each(&mut sequences, &tokens)
}
