//! One token for each of several generators, in passes that all of them share.

use super::sampler::Sampler;
use crate::error::Result;
use crate::session::{Engine, KnownLogits, Sequence};

/// A generator in a step that it shares with others.
pub(super) struct Member<'g> {
    pub(super) sequence: &'g mut Sequence,
    pub(super) known: &'g mut KnownLogits,
    pub(super) sampler: &'g mut Sampler,
    /// The token, and the state of the sampler before it was drawn.
    pub(super) choice: Option<(u32, u64)>,
}

impl Member<'_> {
    /// Chooses the next token from its logits, `[vocabulary]`, which are given unless they are known.
    fn choose(&mut self, logits: Option<Result<&[f32]>>) -> Result<u32> {
        let logits = match logits {
            Some(logits) => logits?,
            None => self.known.current().transpose()?.unwrap_or_default(),
        };
        let before = self.sampler.state().0;
        let token = self.sampler.sample(logits);
        self.choice = Some((token, before));
        Ok(token)
    }

    /// Takes the choice back, if there was one: the step failed.
    fn undo(&mut self) {
        if let Some((_, before)) = self.choice.take() {
            self.sampler.undo(before);
        }
        if !self.known.is_current() {
            self.sequence.reopen();
        }
    }
}

/// Computes logits, lets every generator choose a token, and adds the tokens; those that complete a block share one pass
/// of the block decoder.
///
/// # Errors
/// As [`Engine::logits`] and [`Engine::append_each`], and if logits are not finite. Then nothing was added to any
/// generator, and the step can be taken again.
pub(super) fn decode_one_each(engine: &mut Engine, members: &mut [Member<'_>]) -> Result<()> {
    let result = advance(engine, members);
    if result.is_err() {
        members.iter_mut().for_each(Member::undo);
    }
    result
}

fn advance(engine: &mut Engine, members: &mut [Member<'_>]) -> Result<()> {
    let mut tokens = Vec::with_capacity(members.len());
    let unknown = members.iter_mut().filter(|member| !member.known.is_current());
    let mut unknown: Vec<&mut Sequence> = unknown.map(|member| &mut *member.sequence).collect();
    let logits = if unknown.is_empty() { None } else { Some(engine.logits(&mut unknown, &[])?) };
    let mut row = 0;
    for member in members.iter_mut() {
        let computed = logits.as_ref().filter(|_| !member.known.is_current());
        let computed = computed.map(|logits| {
            row += 1;
            logits.row(row - 1)
        });
        tokens.push(member.choose(computed)?);
    }
    let mut sequences: Vec<&mut Sequence> = members.iter_mut().map(|member| &mut *member.sequence).collect();
    engine.append_each(&mut sequences, &tokens)
}
