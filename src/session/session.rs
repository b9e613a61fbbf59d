//! One sequence with an engine of its own: text in, at any time and in any pieces, and logits out.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::model::Model;
use crate::session::room::reserve;
use crate::session::{Engine, Sequence, SessionOptions, check_finite};
use crate::threads::Team;

/// A sequence and what advances it.
pub struct Session {
    engine: Engine,
    sequence: Sequence,
    /// Of the next token, and behind each token of the guess: `[block_length, vocabulary]`.
    logits: Vec<f32>,
    guess: Vec<u32>,
    /// Which of the logits are those of the sequence as it is.
    current: Option<usize>,
}

impl Session {
    /// An empty sequence.
    ///
    /// # Errors
    /// If an option is out of range or cache and buffers cannot be allocated.
    pub fn new(model: &Arc<Model>, team: &Arc<Team>, options: &SessionOptions) -> Result<Session> {
        let config = model.config();
        let sequence = Sequence::new(model, options)?;
        let mut engine = Engine::new(model, team);
        engine.reserve(1, options.cache_blocks)?;
        let mut logits = Vec::new();
        reserve(&mut logits, config.block_length.saturating_mul(config.vocabulary), "logits of a block")?;
        Ok(Session {
            engine,
            sequence,
            logits,
            guess: Vec::with_capacity(model.config().block_length),
            current: None,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.engine.model()
    }

    /// Tokens so far, the padding of the first block included.
    pub fn length(&self) -> u64 {
        self.sequence.length()
    }

    /// What its cache is; all of it is said.
    pub fn options(&self) -> SessionOptions {
        self.sequence.options()
    }

    /// Whole blocks so far.
    pub fn blocks(&self) -> u64 {
        self.sequence.blocks()
    }

    /// Tokens until the open block is complete: at least 1, at most a block.
    pub fn left_in_block(&self) -> usize {
        self.sequence.left_in_block()
    }

    /// Whether the open block has a token.
    pub(crate) fn is_inside_block(&self) -> bool {
        !self.sequence.state().2.is_empty()
    }

    /// Whether [`Session::rewind`] can go back to so many whole blocks.
    pub fn can_rewind(&self, blocks: u64) -> bool {
        self.sequence.can_rewind(blocks)
    }

    /// The last tokens, up to `most` of those that are still known, oldest first.
    pub fn recent(&self, most: usize) -> Vec<u32> {
        self.sequence.recent(most)
    }

    /// How much of a text this session begins with and can be rewound to: whole blocks, and the tokens of `text` in
    /// them.
    pub fn common_prefix(&self, text: &[u32]) -> (u64, usize) {
        self.sequence.common_prefix(text)
    }

    /// What stops the work of this session from another thread.
    pub fn interrupt(&self) -> &Interrupt {
        self.engine.interrupt()
    }

    /// The sequence as it is.
    pub(crate) fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// The sequence, to be replaced.
    pub(crate) fn sequence_mut(&mut self) -> &mut Sequence {
        self.current = None;
        &mut self.sequence
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.sequence.clear();
        self.current = None;
    }

    /// Goes back to the first `blocks` whole blocks, as if nothing had been added since.
    ///
    /// # Errors
    /// As [`Engine::rewind`].
    pub fn rewind(&mut self, blocks: u64) -> Result<()> {
        self.engine.rewind(&mut self.sequence, blocks)?;
        self.current = None;
        Ok(())
    }

    /// Adds tokens, in time proportional to their number. The session's alignment says what becomes of a first text
    /// that does not fill whole blocks.
    ///
    /// # Errors
    /// If a token is not in the vocabulary; then nothing was added. `Interrupted` on request; then the blocks that
    /// were done by then have been added.
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        let (before, inside) = (self.length(), self.left_in_block() > tokens.len());
        let result = self.engine.append(&mut self.sequence, tokens);
        // Also a failed call may have added something.
        if self.length() != before {
            self.follow(tokens, inside);
        }
        result
    }

    /// Finds the logits behind tokens that were added: they are known if all of them were guessed.
    fn follow(&mut self, tokens: &[u32], inside: bool) {
        let row = self.current.take().filter(|_| inside);
        self.current = row.filter(|row| self.guess[*row..].starts_with(tokens)).map(|row| row + tokens.len());
    }

    /// The logits of the next token, `[vocabulary]`.
    ///
    /// # Errors
    /// If the sequence is empty, or the logits are not finite, as damaged weights make them.
    pub fn logits(&mut self) -> Result<&[f32]> {
        self.logits_ahead(&[])
    }

    /// As [`Session::logits`], and if that takes a pass, it computes those behind each token of a guess as well; if the
    /// next tokens are these, their logits are at hand. What of the guess is behind the open block is ignored.
    ///
    /// # Errors
    /// As [`Session::logits`], and if a token is not in the vocabulary.
    pub fn logits_ahead(&mut self, guess: &[u32]) -> Result<&[f32]> {
        let vocabulary = self.model().config().vocabulary;
        let row = match self.current {
            Some(row) => row,
            None => {
                let guess = &guess[..guess.len().min(self.left_in_block() - 1)];
                self.engine.model().check_tokens(guess)?;
                let sequences = std::slice::from_mut(&mut self.sequence);
                let logits = self.engine.logits_ahead(sequences, guess)?;
                // There is room for those of a block.
                self.logits.clear();
                self.logits.extend_from_slice(logits);
                self.guess.clear();
                self.guess.extend(guess);
                *self.current.insert(0)
            }
        };
        let logits = &self.logits[row * vocabulary..][..vocabulary];
        if row > 0 {
            check_finite(logits)?;
        }
        Ok(logits)
    }

    /// Whether [`Session::logits`] is at hand, without a pass.
    pub fn has_logits(&self) -> bool {
        self.current.is_some()
    }

    /// Computes the logits of several sessions of one model in one pass; [`Session::logits`] then has them at hand.
    ///
    /// # Errors
    /// As [`Session::logits`], and if the models differ.
    pub fn compute_together(sessions: &mut [&mut Session]) -> Result<()> {
        let mut pending: Vec<&mut Session> =
            sessions.iter_mut().map(|s| &mut **s).filter(|s| s.current.is_none()).collect();
        let Some((engine, mut sequences)) = Self::parts(&mut pending)? else { return Ok(()) };
        let mut logits = Vec::new();
        let computed = engine.logits(&mut sequences)?;
        reserve(&mut logits, computed.len(), "logits of the sessions")?;
        logits.extend_from_slice(computed);
        let vocabulary = engine.model().config().vocabulary;
        for (session, row) in pending.iter_mut().zip(logits.chunks_exact(vocabulary)) {
            session.logits.clear();
            session.logits.extend_from_slice(row);
            session.guess.clear();
            session.current = Some(0);
        }
        Ok(())
    }

    /// Adds one token to each of several sessions of one model, none of them empty; those whose block it completes
    /// share one pass.
    ///
    /// # Errors
    /// If the models differ, there is not one token a session, a token is not in the vocabulary or a session is
    /// empty; then nothing was added.
    pub fn append_each(sessions: &mut [&mut Session], tokens: &[u32]) -> Result<()> {
        if sessions.len() != tokens.len() {
            let (found, expected) = (tokens.len(), sessions.len());
            return Err(Error::argument(format!(
                "tokens: found {found}, expected one for each of {expected} sessions"
            )));
        }
        let Some((engine, mut sequences)) = Self::parts(sessions)? else { return Ok(()) };
        engine.append_each(&mut sequences, tokens)?;
        for (session, token) in sessions.iter_mut().zip(tokens) {
            let inside = session.is_inside_block();
            session.follow(std::slice::from_ref(token), inside);
        }
        Ok(())
    }

    /// The first session's engine, which does the work of all of them, and their sequences.
    fn parts<'a>(
        sessions: &'a mut [&mut Session],
    ) -> Result<Option<(&'a mut Engine, Vec<&'a mut Sequence>)>> {
        if let Some(first) = sessions.first()
            && sessions.iter().any(|session| !Arc::ptr_eq(session.model(), first.model()))
        {
            return Err(Error::argument("sessions: found different models, expected one"));
        }
        let mut sessions = sessions.iter_mut();
        let Some(first) = sessions.next() else { return Ok(None) };
        let Session { engine, sequence, .. } = &mut **first;
        let rest = sessions.map(|session| &mut session.sequence);
        Ok(Some((engine, std::iter::once(sequence).chain(rest).collect())))
    }
}
