//! A session that writes: tokens are sampled, turned into whole characters, and ended by stop strings, by the
//! model or by the caller.

#[cfg(feature = "tokenizer")]
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::Result;
use crate::sampler::{Sampler, SamplerOptions};
use crate::sequence::SessionOptions;
use crate::session::Session;
use crate::snapshot::Snapshot;
use crate::threads::Team;
#[cfg(feature = "tokenizer")]
use crate::tokenizer::{StopMatcher, TextStream, Tokenizer};
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
}

/// A session with its sampler and its stop strings.
pub struct Generator {
    session: Session,
    sampler: Sampler,
    stops: Vec<String>,
}

impl Generator {
    /// An empty session that samples with the default options.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn new(model: &Arc<Model>, team: &Arc<Team>, options: &SessionOptions) -> Result<Generator> {
        let sampler = Sampler::new(SamplerOptions::default(), model.config().vocabulary)?;
        Ok(Generator { session: Session::new(model, team, options)?, sampler, stops: Vec::new() })
    }

    /// A saved session. Stop strings are not part of what is saved.
    ///
    /// # Errors
    /// As [`Snapshot::restore`].
    pub fn load(snapshot: &Snapshot, model: &Arc<Model>, team: &Arc<Team>) -> Result<Generator> {
        let (session, sampler) = snapshot.restore(model, team)?;
        let default = || Sampler::new(SamplerOptions::default(), model.config().vocabulary);
        Ok(Generator { session, sampler: sampler.map_or_else(default, Ok)?, stops: Vec::new() })
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
        self.set_sampler(self.sampler.options().clone())?;
        self.session.clear();
        self.session.interrupt().clear();
        Ok(())
    }

    /// Samples differently from now on, starting from the seed; recent tokens are forgotten.
    ///
    /// # Errors
    /// If an option is out of range; then nothing has changed.
    pub fn set_sampler(&mut self, options: SamplerOptions) -> Result<()> {
        self.sampler = Sampler::new(options, self.model().config().vocabulary)?;
        Ok(())
    }

    /// Ends generated text before any of these strings; empty ones are ignored.
    pub fn set_stops(&mut self, stops: Vec<String>) {
        self.stops = stops;
    }

    /// Adds tokens.
    ///
    /// # Errors
    /// As [`Session::append`].
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        self.session.append(tokens)?;
        tokens.iter().for_each(|token| self.sampler.accept(*token));
        Ok(())
    }

    /// The logits of the next token, `[vocabulary]`.
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub fn logits(&mut self) -> Result<&[f32]> {
        self.session.logits()
    }

    /// Samples a token and adds it.
    ///
    /// # Errors
    /// If the session is empty or the logits are not finite; `Interrupted` on request.
    pub fn next_token(&mut self) -> Result<u32> {
        let token = self.sample()?;
        self.append(&[token])?;
        Ok(token)
    }

    fn sample(&mut self) -> Result<u32> {
        self.session.interrupt().check()?;
        Ok(self.sampler.sample(self.session.logits()?))
    }

    /// Tokens until the open block is complete: at least 1, at most `block_length`.
    pub fn left_in_block(&self) -> usize {
        let length = self.model().config().block_length;
        length - (self.session.length() % length as u64) as usize
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
        for generator in generators.iter_mut() {
            tokens.push(generator.sampler.sample(generator.session.logits()?));
        }
        let mut sessions: Vec<&mut Session> = generators.iter_mut().map(|g| &mut g.session).collect();
        Session::append_each(&mut sessions, tokens)?;
        generators.iter_mut().zip(&*tokens).for_each(|(g, token)| g.sampler.accept(*token));
        Ok(())
    }

    /// Generates text and passes it on in pieces of whole characters until `each` breaks. Every token whose text
    /// was looked at becomes part of the session, the one that ends the text does not. Gives the number of tokens
    /// added.
    ///
    /// # Errors
    /// As [`Generator::next_token`], and if a token cannot be decoded; text that was held back is lost then.
    #[cfg(feature = "tokenizer")]
    pub fn generate(
        &mut self,
        tokenizer: &Tokenizer,
        most: usize,
        ignore_end: bool,
        mut each: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(End, usize)> {
        let mut stream = TextStream::new(tokenizer);
        let mut matcher = StopMatcher::new(&self.stops);
        let mut show = |text: &str| !text.is_empty() && each(text).is_break();
        let end_token = self.model().end_token();
        let mut count = 0;
        let mut end = End::Length;
        while count < most {
            let token = self.sample()?;
            if end_token == Some(token) && !ignore_end {
                end = End::EndOfText;
                break;
            }
            self.append(&[token])?;
            count += 1;
            let passed = matcher.push(&stream.push(token)?);
            if show(&passed.text) {
                return Ok((End::Caller, count));
            }
            if passed.stopped {
                return Ok((End::Stop, count));
            }
        }
        let rest = matcher.push(&stream.finish()?);
        if show(&rest.text) {
            return Ok((End::Caller, count));
        }
        if rest.stopped {
            return Ok((End::Stop, count));
        }
        Ok((if show(&matcher.finish()) { End::Caller } else { end }, count))
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
        }
    }
}
