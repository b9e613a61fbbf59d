//! A session that generates text: tokens are sampled, turned into whole characters, and ended by stop strings, by
//! limits, by the model or by the caller.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::completion::{Completion, End, GenerateOptions, LEAD_IN, Step};
use super::constraint::Constraint;
use super::drafter::REMEMBERED;
use super::sampler::Sampler;
use super::sampler_options::SamplerOptions;
use super::snapshot::Snapshot;
use super::speculation::{Speculate, Speculation, SpeculationCounts};
use super::step::{Member, decode_one_each};
use super::tokenizer::{Passed, Tokenizer};
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::model::{BATCH, Model};
use crate::session::{Engine, Runtime, Session, SessionOptions};

/// A session with its sampler and its stop strings.
pub struct Generator {
    session: Session,
    sampler: Sampler,
    speculation: Speculation,
    stops: Vec<String>,
    constraint: Option<Box<dyn Constraint>>,
}

impl Runtime {
    /// A generator with an empty session, which samples with the default options.
    ///
    /// # Errors
    /// As [`Runtime::session`].
    pub fn generator(&self, options: &SessionOptions) -> Result<Generator> {
        let sampler = Sampler::new(SamplerOptions::default(), self.model().config().vocabulary)?;
        Generator::of(self.session(options)?, sampler)
    }

    /// A generator with a saved session. Stop strings are not part of what is saved.
    ///
    /// # Errors
    /// As [`Snapshot::restore`].
    pub fn load(&self, snapshot: &Snapshot) -> Result<Generator> {
        let (session, sampler) = snapshot.restore(self)?;
        let default = || Sampler::new(SamplerOptions::default(), self.model().config().vocabulary);
        let mut generator = Generator::of(session, sampler.map_or_else(default, Ok)?)?;
        generator.reread();
        Ok(generator)
    }
}

impl Generator {
    fn of(session: Session, sampler: Sampler) -> Result<Generator> {
        let speculation = Speculation::new(session.model())?;
        Ok(Generator { session, sampler, speculation, stops: Vec::new(), constraint: None })
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

    /// The model and its threads.
    pub fn runtime(&self) -> &Runtime {
        self.session.runtime()
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
    /// `Resource` if there is no memory for the sampler. Options already validated cause none.
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

    /// Restricts the text that [`Generator::generate`] generates next; a constraint holds for one text.
    pub fn set_constraint(&mut self, constraint: Option<Box<dyn Constraint>>) {
        self.constraint = constraint;
    }

    /// The stop strings.
    pub fn stops(&self) -> &[String] {
        &self.stops
    }

    /// Whole blocks so far.
    pub fn blocks(&self) -> u64 {
        self.session.blocks()
    }

    /// As [`Session::recent`].
    pub fn recent(&self, max: usize) -> Vec<u32> {
        self.session.recent(max)
    }

    /// The options it was created with; every field is set.
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
        let padding = self.session.sequence().padding_of(tokens);
        let result = match tokens {
            // Sampled by the caller.
            [token] => self.speculation.append(&mut self.session, *token, self.sampler.draws()),
            _ => self.session.append(tokens),
        };
        if let Err(error) = result {
            let added = self.length() - before;
            if added > 0 {
                tokens[..added as usize - padding].iter().for_each(|token| self.sampler.accept(*token));
                self.reread();
            }
            return Err(error);
        }
        tokens.iter().for_each(|token| self.sampler.accept(*token));
        if tokens.len() != 1 {
            self.speculation.extend(tokens);
        }
        Ok(())
    }

    /// As [`Generator::append`], calling `progress` with the tokens added so far and their total: first with 0, last with
    /// all, and after every pass over the weights.
    ///
    /// # Errors
    /// As [`Generator::append`], and the error of `progress`; then the tokens reported so far have been added.
    pub fn append_with_progress(
        &mut self,
        tokens: &[u32],
        mut progress: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        self.model().check_tokens(tokens)?;
        let total = tokens.len() as u64;
        progress(0, total)?;
        let block = self.model().config().block_length;
        // The tokens beyond whole blocks come first, because they decide on the padding of a first text.
        let mut part = tokens.len() % block + (BATCH - 1) * block;
        let mut rest = tokens;
        while !rest.is_empty() {
            let (next, later) = rest.split_at(part.min(rest.len()));
            self.append(next)?;
            (rest, part) = (later, BATCH * block);
            progress(total - rest.len() as u64, total)?;
        }
        Ok(())
    }

    /// The logits of the next token, `[vocabulary]`.
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub fn logits(&mut self) -> Result<&[f32]> {
        self.speculation.logits(&mut self.session, None)
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
        let logits = self.speculation.logits(&mut self.session, self.sampler.draws())?;
        Ok((self.sampler.sample(logits), random))
    }

    /// Adds a token that was sampled; if that fails, it will be sampled again.
    fn add(&mut self, token: u32, random: u64) -> Result<()> {
        self.append(&[token]).inspect_err(|_| self.sampler.undo(random))
    }

    /// Tokens until the open block is complete: at least 1, at most `block_length`.
    pub fn left_in_block(&self) -> usize {
        self.session.left_in_block()
    }

    /// Samples a token in each of several generators of one model and adds it; they share every pass over the weights.
    /// `tokens` gets one for each. Tokens are guessed for a generator alone.
    ///
    /// # Errors
    /// As [`Generator::next_token`], and if the models differ; then nothing was added to any. `Interrupted` if any was
    /// interrupted.
    pub fn next_tokens(generators: &mut [&mut Generator], tokens: &mut Vec<u32>) -> Result<()> {
        if let [generator] = generators {
            let token = generator.next_token()?;
            tokens.clear();
            tokens.push(token);
            return Ok(());
        }
        for generator in generators.iter() {
            generator.interrupt().check()?;
        }
        let mut parts = generators.iter_mut().map(|generator| generator.parts());
        let Some((engine, first)) = parts.next() else {
            tokens.clear();
            return Ok(());
        };
        let mut members: Vec<Member<'_>> =
            std::iter::once(first).chain(parts.map(|(_, member)| member)).collect();
        decode_one_each(engine, &mut members)?;
        tokens.clear();
        tokens.extend(members.iter().filter_map(|member| member.choice.map(|(token, _)| token)));
        for (generator, token) in generators.iter_mut().zip(&*tokens) {
            generator.session.follow(&[*token]);
            generator.sampler.accept(*token);
            generator.speculation.extend(&[*token]);
        }
        Ok(())
    }

    /// The engine, and the other parts as a member of a step.
    fn parts(&mut self) -> (&mut Engine, Member<'_>) {
        let (engine, sequence, known) = self.session.parts();
        (engine, Member { sequence, known, sampler: &mut self.sampler, choice: None })
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
        let context = self.session.recent(LEAD_IN);
        let end_token = self.model().end_token();
        let mut completion = Completion::new(tokenizer, &context, &self.stops, options, end_token)?;
        let end = loop {
            if let Some(end) = completion.limit() {
                break end;
            }
            self.session.interrupt().check()?;
            let random = self.sampler.state().0;
            let logits = self.speculation.logits(&mut self.session, self.sampler.draws())?;
            let id = self.sampler.sample_within(logits, self.constraint.as_deref_mut())?;
            let Some(id) = id.filter(|id| !completion.ends(*id)) else { break End::EndOfText };
            let token = match self.session.logits().and_then(|logits| completion.token(id, logits)) {
                Ok(token) => token,
                Err(error) => {
                    self.sampler.undo(random);
                    return Err(error);
                }
            };
            let guessed = self.session.has_guessed(id);
            self.add(id, random)?;
            if let Some(constraint) = &mut self.constraint {
                constraint.accept(id)?;
            }
            let passed = completion.push(id)?;
            if each(Step { token: Some(token), text: passed.text, guessed }).is_break() {
                return Ok((End::Caller, completion.count()));
            }
            if passed.stopped {
                return Ok((End::Stop, completion.count()));
            }
        };
        let Passed { text, stopped } = completion.finish()?;
        if !text.is_empty() && each(Step { token: None, text, guessed: false }).is_break() {
            return Ok((End::Caller, completion.count()));
        }
        Ok((if stopped { End::Stop } else { end }, completion.count()))
    }
}
