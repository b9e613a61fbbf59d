//! Many texts at once: sequences join and leave while others continue, and all share every pass over the weights.
//!
//! An advance is one block: waiting requests join if memory allows, prompts are read in a pass of bounded size, and every
//! sequence generates to the end of its block, so that all blocks end together in one pass of the block decoder. A
//! sequence that needs fewer passes for that than others waits for them there. A text that ends leaves at once; the
//! others' passes are narrower from then on. The tokens of a sequence do not depend, to the bit, on the others.

use std::collections::VecDeque;
use std::sync::Arc;

use super::budget::Budget;
use super::completion::{Completion, End, GenerateOptions, LEAD_IN};
use super::drafter::REMEMBERED;
use super::estimate;
use super::prefixes::{LEAST, PrefixCounts, Prefixes};
use super::request::{BatchOptions, Event, Request};
use super::running::Running;
use super::sampler::Sampler;
use super::sampler_options::SamplerOptions;
use super::shared_speculation::SharedSpeculation;
use super::speculation::SpeculationCounts;
use super::tokenizer::Tokenizer;
use super::writing::write;
use crate::error::{Error, ErrorKind, Result};
use crate::interrupt::Interrupt;
use crate::model::{Alignment, BATCH};
use crate::session::{Append, Engine, Runtime, Sequence, SessionOptions};

/// A request that waits for its turn.
struct Waiting {
    id: u64,
    request: Request,
    options: SessionOptions,
    bytes: u64,
}

/// Texts that are generated together, admitted in the order of their requests as far as memory allows.
pub struct Batch {
    engine: Engine,
    tokenizer: Option<Arc<Tokenizer>>,
    options: BatchOptions,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
    budget: Budget,
    prefixes: Prefixes,
    speculation: SharedSpeculation,
    next_id: u64,
}

impl Runtime {
    /// A batch without texts. Without a tokenizer, there is no text and no stop string, only tokens.
    ///
    /// # Errors
    /// If an option is out of range.
    pub fn batch(&self, tokenizer: Option<Arc<Tokenizer>>, options: BatchOptions) -> Result<Batch> {
        options.session.cache_shape(self.model())?;
        if options.sequences == 0 {
            return Err(Error::argument("sequences of a batch: found 0, expected at least 1"));
        }
        let blocks = options.session.cache_blocks_for(self.model());
        let buffers = estimate::shared(self.model(), options.sequences, blocks);
        let fixed = (self.model().file_bytes() as u64)
            .saturating_add(buffers)
            .saturating_add(estimate::draft_table(self.model()));
        // Log-probabilities of one token, and as many recent tokens as are usual.
        let scored = GenerateOptions { logprobs: Some(1), ..Default::default() };
        let penalized = SamplerOptions { repetition_penalty: 2.0, ..Default::default() };
        let text = Completion::<Arc<Tokenizer>>::bytes(&scored, self.model().config().vocabulary)
            .saturating_add(Sampler::bytes(&penalized, 0));
        let mut engine = self.engine();
        // The blocks that a text sees cost less than its cache, which is made when it joins.
        engine.reserve(1, 0)?;
        Ok(Batch {
            engine,
            tokenizer,
            budget: Budget::new(options.memory, fixed, text as u64),
            prefixes: Prefixes::new(options.prefix_cache),
            speculation: SharedSpeculation::new(self.model(), options.speculate),
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            next_id: 0,
        })
    }
}

impl Batch {
    /// What stops [`Batch::advance`] from another thread; all texts can go on afterwards.
    pub fn interrupt(&self) -> &Interrupt {
        self.engine.interrupt()
    }

    /// Texts that wait for their turn.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Texts that are being read or written.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Bytes of weights, caches and buffers as they are counted; never more than [`BatchOptions::memory`].
    pub fn memory(&self) -> u64 {
        self.budget.used(self.running_bytes()).saturating_add(self.speculation.bytes())
    }

    /// The use of prefixes that are kept.
    pub fn prefixes(&self) -> PrefixCounts {
        self.prefixes.counts()
    }

    /// Passes that computed logits, whatever the number of texts in each, and the tokens that came of them.
    pub fn speculation_counts(&self) -> SpeculationCounts {
        self.speculation.counts()
    }

    /// Asks for a text, and gives the number by which [`Batch::advance`] reports on it.
    ///
    /// # Errors
    /// If the prompt is empty and does not follow anything, is longer than the cache or has a token that is not in the
    /// vocabulary, if it follows a sequence of another model, if an option is out of range, or if the text alone would
    /// exceed the memory.
    pub fn submit(&mut self, request: Request) -> Result<u64> {
        let model = self.engine.model();
        let config = model.config();
        let tokens = request.prompt.len();
        if request.start.as_ref().is_some_and(|start| !start.belongs_to(model)) {
            return Err(Error::argument(
                "start: found a sequence of another model, expected one of the batch's",
            ));
        }
        if tokens == 0 && request.start.as_ref().is_none_or(|start| start.is_empty()) {
            return Err(Error::argument("prompt: found 0 tokens, expected at least 1"));
        }
        self.options.session.check_prompt(model, tokens)?;
        model.check_tokens(&request.prompt)?;
        model.check_tokens(&request.forced)?;
        Sampler::new(request.sampler.clone(), config.vocabulary)?;
        let options = match &request.start {
            Some(start) => start.options(),
            None => self.sized(tokens, request.generate.max_tokens),
        };
        // What its options take beyond what every text does.
        let window = Sampler::bytes(&request.sampler, 0);
        let order = Completion::<Arc<Tokenizer>>::bytes(&request.generate, config.vocabulary);
        let bytes = self.bytes_of(&options).saturating_add(window.saturating_add(order) as u64);
        self.budget.check_text(bytes)?;
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.push_back(Waiting { id, request, options, bytes });
        Ok(id)
    }

    /// Reads the beginning that several requests share ([`Request::start`]), with room for `max_tokens` tokens after
    /// it. Its memory counts until the last of them has joined. With [`BatchOptions::prefix_cache`], what it has in common with another
    /// beginning or text is not read again.
    ///
    /// # Errors
    /// As [`Engine::append`], and if the prompt exceeds the cache, or memory for it is not available now.
    pub fn begin(&mut self, prompt: &[u32], max_tokens: usize) -> Result<Arc<Sequence>> {
        self.options.session.check_prompt(self.engine.model(), prompt.len())?;
        let options = self.sized(prompt.len(), max_tokens);
        let bytes = self.bytes_of(&options);
        while let Err(error) = self.budget.check_start(self.running_bytes(), bytes) {
            if !self.prefixes.forget() {
                return Err(error);
            }
        }
        if self.budget.is_exceeded(self.memory().saturating_add(bytes)) {
            self.stop_guessing();
        }
        let mut sequence = self.engine.runtime().sequence(&options)?;
        let starts = self.budget.shared();
        let running = self.running.iter().map(|running| &running.sequence);
        let others = running.chain(starts.iter().map(|start| &**start));
        let read = self.prefixes.begin(&mut sequence, prompt, others);
        self.engine.append(&mut sequence, &prompt[read..])?;
        let sequence = Arc::new(sequence);
        self.budget.share(&sequence, bytes);
        Ok(sequence)
    }

    /// Whether [`Batch::begin`] finds room for a prompt now.
    pub fn has_room(&self, tokens: usize, max_tokens: usize) -> bool {
        let bytes = self.bytes_of(&self.sized(tokens, max_tokens));
        // Prefixes are given up for it.
        self.budget.check_start(self.running_bytes() - self.prefixes.counts().bytes, bytes).is_ok()
    }

    /// Bytes of texts and prefixes.
    fn running_bytes(&self) -> u64 {
        let kept = self.prefixes.counts().bytes;
        self.running.iter().fold(kept, |bytes, running| bytes.saturating_add(running.bytes))
    }

    fn bytes_of(&self, options: &SessionOptions) -> u64 {
        let (cache, rest) = estimate::of_sequence(self.engine.model(), options);
        cache.saturating_add(rest)
    }

    /// The cache that a text needs, or else as much as there may be.
    fn sized(&self, prompt: usize, max_tokens: usize) -> SessionOptions {
        let (session, model) = (&self.options.session, self.engine.model());
        // The padding of a first block, and the block that is open at the end.
        let blocks =
            prompt.saturating_add(max_tokens).div_ceil(model.config().block_length).saturating_add(1);
        let cache_blocks = blocks.clamp(session.sink_blocks + 1, session.cache_blocks_for(model));
        SessionOptions { cache_blocks: Some(cache_blocks), ..session.clone() }
    }

    /// Advances every text by one block and reports the events.
    ///
    /// # Errors
    /// `Interrupted` on request, and `Resource` if there is no memory for a pass; the next call resumes. A failure of
    /// one text is reported as [`Event::Failed`].
    pub fn advance(&mut self, mut each: impl FnMut(u64, Event)) -> Result<()> {
        let each = &mut each;
        self.admit(each);
        for running in self.running.iter_mut().filter(|running| running.is_reading()) {
            if running.interrupt.check().is_err() {
                running.finish(End::Caller, each);
            }
        }
        self.release();
        self.read()?;
        self.lend_guessers();
        let result = write(&mut self.engine, &mut self.running, &mut self.speculation, each);
        self.release();
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Resource) {
            // Perhaps there is room without them.
            self.stop_guessing();
            self.speculation.turn_off();
        }
        result
    }

    /// Lets texts guess while they are few and there is memory for it, and no more of them otherwise.
    fn lend_guessers(&mut self) {
        let writing = self.running.iter().filter(|running| running.is_writing()).count();
        if !self.speculation.suits(writing) {
            let lent = self.running.iter_mut().map(|running| running.guesser.take());
            lent.for_each(|guesser| self.speculation.take_back(guesser));
            return;
        }
        for index in 0..self.running.len() {
            let running = &self.running[index];
            if running.guesser.is_some() || !running.is_writing() {
                continue;
            }
            let bytes = self.speculation.next_bytes();
            // Where texts wait for memory, it is for them.
            let wanted = bytes > 0 && !self.waiting.is_empty() && self.running.len() < self.options.sequences;
            if wanted || self.budget.is_exceeded(self.memory().saturating_add(bytes)) {
                break;
            }
            let running = &mut self.running[index];
            let text = running.sequence.recent(REMEMBERED);
            running.guesser = self.speculation.lend(self.engine.model(), &text);
        }
    }

    /// Gives the memory of guesses back.
    fn stop_guessing(&mut self) {
        self.running.iter_mut().for_each(|running| running.guesser = None);
        self.speculation.clear();
        self.engine.shrink(self.running.len().max(1));
    }

    /// Lets those join for whom there is room, first come first served: nobody overtakes one who needs more of it.
    fn admit(&mut self, each: &mut impl FnMut(u64, Event)) {
        self.waiting.retain(|waiting| {
            let cancelled = waiting.request.interrupt.check().is_err();
            if cancelled {
                each(waiting.id, Event::Ended(End::Caller, 0));
            }
            !cancelled
        });
        while let Some(first) = self.waiting.front() {
            if self.running.len() == self.options.sequences || self.is_about_to_share(&first.request) {
                break;
            }
            let bytes = first.bytes;
            let mut used = self.memory().saturating_add(bytes);
            while self.budget.is_exceeded(used) {
                let guesses = self.speculation.bytes();
                if guesses > 0 && !self.budget.is_exceeded(used - guesses) {
                    self.stop_guessing();
                } else if !self.prefixes.forget() {
                    break;
                }
                used = self.memory().saturating_add(bytes);
            }
            let full = self.budget.is_exceeded(used);
            // Where nothing runs, it is kept out by beginnings that the caller keeps, and waiting would have no end.
            let never = full && self.running.is_empty();
            if full && !never {
                break;
            }
            let Some(Waiting { id, request, options, bytes }) = self.waiting.pop_front() else { break };
            if never {
                let detail =
                    format!("memory: found {used} bytes with the beginnings that are kept, expected fewer");
                each(id, Event::Failed(Error::new(ErrorKind::Resource, detail)));
                continue;
            }
            match self.join(id, request, &options, bytes) {
                Ok(running) => self.running.push(running),
                Err(error) => each(id, Event::Failed(error)),
            }
        }
    }

    /// Whether a text that is being read will soon have much of a prompt, which is worth a wait.
    fn is_about_to_share(&self, request: &Request) -> bool {
        if !self.prefixes.is_on() || request.start.is_some() {
            return false;
        }
        let config = self.engine.model().config();
        let (length, tokens) = (config.block_length, request.prompt.len());
        let alignment = self.options.session.alignment.unwrap_or(config.alignment);
        let alike = |other: usize| alignment == Alignment::Tail || other % length == tokens % length;
        let worth = 4 * LEAST as usize * length;
        self.running.iter().any(|r| alike(r.prompt.len()) && r.will_share(&request.prompt) >= worth)
    }

    fn join(&mut self, id: u64, request: Request, options: &SessionOptions, bytes: u64) -> Result<Running> {
        let model = self.engine.model();
        let mut sampler = Sampler::new(request.sampler, model.config().vocabulary)?;
        let mut sequence = match &request.start {
            Some(start) => {
                sampler.remember(&start.recent(sampler.options().repetition_window));
                let mut sequence = start.try_clone()?;
                if request.prompt.is_empty() {
                    // Its logits may have been computed before.
                    sequence.reopen();
                }
                sequence
            }
            None => self.engine.runtime().sequence(options)?,
        };
        let read = match request.start {
            Some(_) => 0,
            None => {
                let running = self.running.iter().map(|running| &running.sequence);
                self.prefixes.begin(&mut sequence, &request.prompt, running)
            }
        };
        request.prompt.iter().for_each(|token| sampler.accept(*token));
        let mut context = request.start.as_ref().map_or_else(Vec::new, |start| start.recent(LEAD_IN));
        context.extend(&request.prompt[request.prompt.len().saturating_sub(LEAD_IN)..]);
        let end_token = model.end_token();
        let completion =
            Completion::new(self.tokenizer.clone(), &context, &request.stops, &request.generate, end_token)?;
        Ok(Running {
            id,
            sequence,
            sampler,
            completion,
            prompt: request.prompt,
            read,
            forced: request.forced,
            constraint: request.constraint,
            interrupt: request.interrupt,
            bytes,
            left: false,
            failed: false,
            choice: None,
            pending: None,
            guesser: None,
            drafts: Vec::new(),
            guess: Vec::new(),
        })
    }

    /// Reads prompts: one pass, however long they are, so that those who write need not wait for long.
    fn read(&mut self) -> Result<()> {
        let unread = |running: &&mut Running| running.is_reading();
        let readers = self.running.iter_mut().filter(unread);
        let mut texts: Vec<Append<'_>> = readers
            .map(|running| Append {
                sequence: &mut running.sequence,
                tokens: &running.prompt[running.read..],
            })
            .collect();
        let result = self.engine.append_pass(&mut texts, BATCH);
        let left: Vec<usize> = texts.iter().map(|text| text.tokens.len()).collect();
        for (running, left) in self.running.iter_mut().filter(unread).zip(left) {
            running.read = running.prompt.len() - left;
        }
        result
    }

    /// Gives back the memory of those that have left, or keeps them as prefixes.
    fn release(&mut self) {
        for running in self.running.extract_if(.., |running| running.left) {
            self.speculation.take_back(running.guesser);
            if self.prefixes.is_on() && !running.failed {
                self.prefixes.keep(running.sequence, running.bytes);
            }
        }
    }
}
