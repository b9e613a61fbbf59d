//! A session that writes: tokens are sampled, turned into whole characters, and ended by stop strings, by limits, by
//! the model or by the caller.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::generation::completion::{CONTEXT, Completion};
use crate::generation::drafter::REMEMBERED;
use crate::generation::sampler::{Sampler, SamplerOptions};
use crate::generation::snapshot::Snapshot;
use crate::generation::speculation::{Speculate, Speculation, SpeculationCounts};
use crate::generation::tokenizer::{Passed, Tokenizer};
use crate::session::Session;
use crate::session::SessionOptions;
use crate::threads::Team;
use crate::{Interrupt, Model};

/// Why [`Generator::generate`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As many tokens as were asked for.
    Length,
    /// The model ended its text.
    EndOfText,
    /// A stop string.
    Stop,
    /// The caller, who got a piece of text and wants no more.
    Caller,
    /// The time that was given for it.
    Time,
}

/// What ends a generated text, and what is told about it.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Tokens at most.
    pub max_tokens: usize,
    /// No token is begun after so much time.
    pub time_limit: Option<Duration>,
    /// Goes on past the token that ends a text.
    pub ignore_end: bool,
    /// Computes the log-probability of every token, and those of so many of the most likely ones.
    pub logprobs: Option<usize>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions { max_tokens: 256, time_limit: None, ignore_end: false, logprobs: None }
    }
}

/// A generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The natural logarithm of the probability that the model gave it, before anything that the sampler does, if it
    /// was asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens with theirs, as many as were asked for, best first.
    pub top: Vec<(u32, f32)>,
}

/// What one token brings.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The token; none with the text that was held back until the end.
    pub token: Option<Token>,
    /// Whole characters that are certain to be part of the text; may be empty.
    pub text: String,
}

/// A session with its sampler and its stop strings.
pub struct Generator {
    session: Session,
    sampler: Sampler,
    speculation: Speculation,
    stops: Vec<String>,
}

impl Generator {
    /// An empty session that samples with the default options.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn new(model: &Arc<Model>, team: &Arc<Team>, options: &SessionOptions) -> Result<Generator> {
        let sampler = Sampler::new(SamplerOptions::default(), model.config().vocabulary)?;
        Ok(Self::of(Session::new(model, team, options)?, sampler))
    }

    /// A saved session. Stop strings are not part of what is saved.
    ///
    /// # Errors
    /// As [`Snapshot::restore`].
    pub fn load(snapshot: &Snapshot, model: &Arc<Model>, team: &Arc<Team>) -> Result<Generator> {
        let (session, sampler) = snapshot.restore(model, team)?;
        let default = || Sampler::new(SamplerOptions::default(), model.config().vocabulary);
        let mut generator = Self::of(session, sampler.map_or_else(default, Ok)?);
        generator.reread();
        Ok(generator)
    }

    fn of(session: Session, sampler: Sampler) -> Generator {
        let speculation = Speculation::new(session.model().config().block_length);
        Generator { session, sampler, speculation, stops: Vec::new() }
    }

    /// The state of session and sampler.
    ///
    /// # Errors
    /// As [`Snapshot::save`].
    pub fn save(&self) -> Result<Snapshot<'static>> {
        Snapshot::save(&self.session, Some(&self.sampler))
    }

    /// How many bytes [`Generator::save`] would give.
    ///
    /// # Errors
    /// As [`Snapshot::size`].
    pub fn saved_bytes(&self) -> Result<u64> {
        Snapshot::size(&self.session, Some(&self.sampler))
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.session.model()
    }

    /// What stops the work from another thread.
    pub fn interrupt(&self) -> &Interrupt {
        self.session.interrupt()
    }

    /// Tokens so far, the padding of the first block included.
    pub fn length(&self) -> u64 {
        self.session.length()
    }

    /// Forgets the text; the sampler starts again from its seed.
    ///
    /// # Errors
    /// None that the options, which were checked before, could cause.
    pub fn clear(&mut self) -> Result<()> {
        self.session.clear();
        self.reread();
        self.set_sampler(self.sampler.options().clone())?;
        self.session.interrupt().clear();
        Ok(())
    }

    /// Samples differently from now on, starting from the seed; recent tokens stay recent.
    ///
    /// # Errors
    /// If an option is out of range; then nothing has changed.
    pub fn set_sampler(&mut self, options: SamplerOptions) -> Result<()> {
        self.sampler = Sampler::new(options, self.model().config().vocabulary)?;
        self.recall();
        Ok(())
    }

    /// How it samples.
    pub fn sampler_options(&self) -> &SamplerOptions {
        self.sampler.options()
    }

    /// Ends generated text before any of these strings; empty ones are ignored.
    pub fn set_stops(&mut self, stops: Vec<String>) {
        self.stops = stops;
    }

    /// Whole blocks so far.
    pub fn blocks(&self) -> u64 {
        self.session.blocks()
    }

    /// As [`Session::recent`].
    pub fn recent(&self, most: usize) -> Vec<u32> {
        self.session.recent(most)
    }

    /// What its cache is.
    pub fn options(&self) -> SessionOptions {
        self.session.options()
    }

    /// As [`Session::can_rewind`].
    pub fn can_rewind(&self, blocks: u64) -> bool {
        self.session.can_rewind(blocks)
    }

    /// As [`Session::common_prefix`].
    pub fn common_prefix(&self, text: &[u32]) -> (u64, usize) {
        self.session.common_prefix(text)
    }

    /// Goes back to the first `blocks` whole blocks, as if nothing had been added since; but the sampler's random
    /// numbers go on.
    ///
    /// # Errors
    /// As [`Session::rewind`].
    pub fn rewind(&mut self, blocks: u64) -> Result<()> {
        self.session.rewind(blocks)?;
        self.recall();
        self.reread();
        Ok(())
    }

    /// Guesses the next tokens from now on, or no more. This changes how fast text is generated, and nothing else.
    pub fn set_speculation(&mut self, mode: Speculate) {
        self.speculation.set_mode(mode);
    }

    /// Whether it guesses tokens.
    pub fn speculation(&self) -> Speculate {
        self.speculation.mode()
    }

    /// How many passes it has taken, and for how many tokens; tokens count that were added one by one.
    pub fn speculation_counts(&self) -> SpeculationCounts {
        self.speculation.counts()
    }

    /// Tells what guesses come from the text as it is.
    fn reread(&mut self) {
        self.speculation.restart(&self.session.recent(REMEMBERED));
    }

    /// Tells the sampler the recent tokens.
    fn recall(&mut self) {
        let recent = self.session.recent(self.sampler.options().repetition_window);
        self.sampler.remember(&recent);
    }

    /// Adds tokens.
    ///
    /// # Errors
    /// As [`Session::append`]; the sampler knows the tokens that were added before.
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        let before = self.length();
        if let Err(error) = self.session.append(tokens) {
            let added = self.length().saturating_sub(before);
            if added > 0 {
                let window = self.sampler.options().repetition_window as u64;
                let added = self.session.recent(added.min(window) as usize);
                added.iter().for_each(|token| self.sampler.accept(*token));
                self.reread();
            }
            return Err(error);
        }
        tokens.iter().for_each(|token| self.sampler.accept(*token));
        match tokens {
            // Sampled by the caller.
            [token] => self.speculation.accept(*token),
            _ => self.speculation.extend(tokens),
        }
        Ok(())
    }

    /// The logits of the next token, `[vocabulary]`.
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub fn logits(&mut self) -> Result<&[f32]> {
        self.speculation.logits(&mut self.session)
    }

    /// Samples a token and adds it.
    ///
    /// # Errors
    /// If the session is empty or the logits are not finite; `Interrupted` on request. Then nothing has changed.
    pub fn next_token(&mut self) -> Result<u32> {
        let (token, random) = self.sample()?;
        self.add(token, random)?;
        Ok(token)
    }

    /// A token, and the state of the sampler before it was drawn.
    fn sample(&mut self) -> Result<(u32, u64)> {
        self.session.interrupt().check()?;
        let random = self.sampler.state().0;
        Ok((self.sampler.sample(self.speculation.logits(&mut self.session)?), random))
    }

    /// Adds a token that was sampled; if that fails, it will be sampled again.
    fn add(&mut self, token: u32, random: u64) -> Result<()> {
        self.append(&[token]).inspect_err(|_| self.sampler.undo(random))
    }

    /// Tokens until the open block is complete: at least 1, at most `block_length`.
    pub fn left_in_block(&self) -> usize {
        self.session.left_in_block()
    }

    /// Samples a token in each of several generators of one model and adds it; they share every pass over the
    /// weights. `tokens` gets one for each.
    ///
    /// # Errors
    /// As [`Generator::next_token`]; then nothing was added to any. `Interrupted` if any was asked to stop.
    pub fn next_tokens(generators: &mut [&mut Generator], tokens: &mut Vec<u32>) -> Result<()> {
        for generator in generators.iter() {
            generator.interrupt().check()?;
        }
        let mut sessions: Vec<&mut Session> = generators.iter_mut().map(|g| &mut g.session).collect();
        Session::compute_together(&mut sessions)?;
        tokens.clear();
        let mut before = Vec::with_capacity(generators.len());
        for generator in generators.iter_mut() {
            before.push(generator.sampler.state().0);
            tokens.push(generator.sampler.sample(generator.session.logits()?));
        }
        let mut sessions: Vec<&mut Session> = generators.iter_mut().map(|g| &mut g.session).collect();
        if let Err(error) = Session::append_each(&mut sessions, tokens) {
            generators.iter_mut().zip(before).for_each(|(generator, random)| generator.sampler.undo(random));
            return Err(error);
        }
        for (generator, token) in generators.iter_mut().zip(&*tokens) {
            generator.sampler.accept(*token);
            generator.speculation.extend(&[*token]);
        }
        Ok(())
    }

    /// Generates text and passes on what each token brings until `each` breaks. Every token whose text was looked at
    /// becomes part of the session, the one that ends the text does not. The pieces of text together are exactly the
    /// decoding of the tokens as they follow the text before. Without a tokenizer, there is no text and no
    /// stop string. Gives the number of tokens added.
    ///
    /// # Errors
    /// As [`Generator::next_token`], and if a token cannot be decoded; text that was held back is lost then.
    pub fn generate(
        &mut self,
        tokenizer: Option<&Tokenizer>,
        options: &GenerateOptions,
        mut each: impl FnMut(Step) -> ControlFlow<()>,
    ) -> Result<(End, usize)> {
        let context = self.session.recent(CONTEXT);
        let end_token = self.model().end_token();
        let mut completion = Completion::new(tokenizer, &context, &self.stops, options, end_token)?;
        let end = loop {
            if let Some(end) = completion.limit() {
                break end;
            }
            let (id, random) = self.sample()?;
            if completion.ends(id) {
                break End::EndOfText;
            }
            let token = match self.session.logits().and_then(|logits| completion.token(id, logits)) {
                Ok(token) => token,
                Err(error) => {
                    self.sampler.undo(random);
                    return Err(error);
                }
            };
            self.add(id, random)?;
            let passed = completion.push(id)?;
            if each(Step { token: Some(token), text: passed.text }).is_break() {
                return Ok((End::Caller, completion.count()));
            }
            if passed.stopped {
                return Ok((End::Stop, completion.count()));
            }
        };
        let Passed { text, stopped } = completion.finish()?;
        if !text.is_empty() && each(Step { token: None, text }).is_break() {
            return Ok((End::Caller, completion.count()));
        }
        Ok((if stopped { End::Stop } else { end }, completion.count()))
    }
}

impl End {
    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            End::Length => "length",
            End::EndOfText => "end of text",
            End::Stop => "stop",
            End::Caller => "caller",
            End::Time => "time",
        }
    }
}
