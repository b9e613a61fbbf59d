//! Many texts at once: sequences join and leave while others go on, and all share every pass over the weights.
//!
//! An advance is one block: what has been asked for joins if memory allows, prompts are read in a pass of bounded
//! size, and every sequence writes to the end of its block, so that all blocks end together in one pass of the block
//! decoder. A prompt that ends inside a block joins at the token where it is. A text that ends leaves at once; the
//! others' passes are narrower from then on. What a sequence writes does not depend, to the bit, on the others.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::completion::{CONTEXT, Completion, End, GenerateOptions, Step, Token};
use super::estimate;
use super::sampler::{Sampler, SamplerOptions};
use super::step::{self, Writer};
use super::tokenizer::Tokenizer;
use crate::error::{Error, ErrorKind, Result};
use crate::interrupt::Interrupt;
use crate::model::BATCH;
use crate::session::{Append, Engine, Runtime, Sequence, SessionOptions};

/// What all texts of a batch share.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchOptions {
    /// The cache of a sequence; one that needs fewer blocks gets no more than it needs.
    pub session: SessionOptions,
    /// Sequences at a time.
    pub sequences: usize,
    /// Bytes of weights, caches and buffers, all together, that are not exceeded; `None` is no limit.
    pub memory: Option<u64>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        BatchOptions { session: SessionOptions::default(), sequences: 32, memory: None }
    }
}

/// A text to be written.
#[derive(Clone, Default)]
pub struct Request {
    /// What it follows.
    pub prompt: Vec<u32>,
    /// A sequence that has had the beginning of the prompt, which `prompt` then goes on from. Requests can share it:
    /// each goes on with a copy.
    pub start: Option<Arc<Sequence>>,
    /// Tokens that it takes first, whatever is likely. With [`GenerateOptions::logprobs`], this scores them.
    pub forced: Vec<u32>,
    /// How its tokens are chosen after that.
    pub sampler: SamplerOptions,
    /// What ends it.
    pub generate: GenerateOptions,
    /// It ends before any of these strings.
    pub stops: Vec<String>,
    /// Ends it from any thread, with what it has.
    pub interrupt: Interrupt,
}

/// What happens to a text.
#[derive(Debug)]
pub enum Event {
    /// A token, or text that was held back until the end.
    Step(Step),
    /// It ended, with so many tokens; [`End::Caller`] if its [`Request::interrupt`] said so.
    Ended(End, usize),
    /// It cannot go on.
    Failed(Error),
}

/// A request that waits for its turn.
struct Waiting {
    id: u64,
    request: Request,
    options: SessionOptions,
    bytes: u64,
}

/// A text that is being read or written.
struct Running {
    id: u64,
    sequence: Sequence,
    sampler: Sampler,
    completion: Completion<Arc<Tokenizer>>,
    /// Tokens of the prompt, and how many of them have been read.
    prompt: Vec<u32>,
    read: usize,
    forced: Vec<u32>,
    interrupt: Interrupt,
    bytes: u64,
    left: bool,
    /// The outcome of the step under way, if it takes part in it.
    choice: Option<Result<Choice>>,
}

/// A token that a text has chosen in the step under way.
struct Choice {
    /// The state of the sampler before.
    random: u64,
    /// `None` for the token that ends a text.
    token: Option<Token>,
}

/// Texts that are written together, in the order in which they were asked for as far as memory goes.
pub struct Batch {
    engine: Engine,
    tokenizer: Option<Arc<Tokenizer>>,
    options: BatchOptions,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
    /// Beginnings that are still shared, and the bytes of each.
    starts: Vec<(Weak<Sequence>, u64)>,
    /// Bytes of weights and shared buffers.
    fixed: u64,
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
        let fixed = (self.model().file_bytes() as u64).saturating_add(buffers);
        let mut engine = self.engine();
        // The blocks that a text sees cost less than its cache, which is made when it joins.
        engine.reserve(1, 0)?;
        Ok(Batch {
            engine,
            tokenizer,
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            starts: Vec::new(),
            fixed,
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
        let shared =
            self.starts.iter().filter(|(start, _)| start.strong_count() > 0).map(|(_, bytes)| *bytes);
        let running = self.running.iter().map(|running| running.bytes);
        shared.chain(running).fold(self.fixed, u64::saturating_add)
    }

    /// Asks for a text, and gives the number by which [`Batch::advance`] tells about it.
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
        self.check_length(tokens)?;
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
        let alone = self.fixed.saturating_add(bytes);
        if let Some(memory) = self.options.memory.filter(|memory| alone > *memory) {
            return Err(Error::new(
                ErrorKind::Resource,
                format!(
                    "memory: found a limit of {memory} bytes, expected at least {alone} for this text alone"
                ),
            ));
        }
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.push_back(Waiting { id, request, options, bytes });
        Ok(id)
    }

    /// Reads the beginning that several requests share ([`Request::start`]), with room for N tokens after it. Its memory
    /// counts until the last of them has joined.
    ///
    /// # Errors
    /// As [`Engine::append`], and if the prompt is longer than the cache or that cannot be allocated, or if there is
    /// no room for it now.
    pub fn begin(&mut self, prompt: &[u32], max_tokens: usize) -> Result<Arc<Sequence>> {
        self.check_length(prompt.len())?;
        let options = self.sized(prompt.len(), max_tokens);
        let bytes = self.bytes_of(&options);
        if let Some(memory) = self.options.memory.filter(|memory| self.with_start(bytes) > *memory) {
            let needed = self.with_start(bytes);
            let detail = format!(
                "memory: found a limit of {memory} bytes, expected at least {needed} for this beginning"
            );
            return Err(Error::new(ErrorKind::Resource, detail));
        }
        let mut sequence = self.engine.runtime().sequence(&options)?;
        self.engine.append(&mut sequence, prompt)?;
        let sequence = Arc::new(sequence);
        self.starts.retain(|(start, _)| start.strong_count() > 0);
        self.starts.push((Arc::downgrade(&sequence), bytes));
        Ok(sequence)
    }

    /// Whether [`Batch::begin`] finds room for a prompt now.
    pub fn has_room(&self, tokens: usize, max_tokens: usize) -> bool {
        let bytes = self.bytes_of(&self.sized(tokens, max_tokens));
        self.options.memory.is_none_or(|memory| self.with_start(bytes) <= memory)
    }

    /// Bytes with one more beginning, and with room for a text that follows it or another one: without that, the
    /// beginnings could keep each other's texts out.
    fn with_start(&self, bytes: u64) -> u64 {
        let starts =
            self.starts.iter().filter(|(start, _)| start.strong_count() > 0).map(|(_, bytes)| *bytes);
        let text = starts.clone().fold(bytes, u64::max);
        let beside = starts.fold(self.fixed, u64::saturating_add).saturating_add(text);
        beside.max(self.memory()).saturating_add(bytes)
    }

    fn bytes_of(&self, options: &SessionOptions) -> u64 {
        let (cache, rest) = estimate::of_sequence(self.engine.model(), options);
        cache.saturating_add(rest)
    }

    fn check_length(&self, tokens: usize) -> Result<()> {
        let length = self.engine.model().config().block_length;
        let blocks = self.options.session.cache_blocks_for(self.engine.model());
        if tokens.div_ceil(length) > blocks {
            let max = blocks.saturating_mul(length);
            return Err(Error::argument(format!("prompt: found {tokens} tokens, expected at most {max}")));
        }
        Ok(())
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

    /// Goes on by one block and tells what came of it; nothing happens without texts.
    ///
    /// # Errors
    /// `Interrupted` on request; the next advance goes on where this one was. What is wrong with one text is told as
    /// [`Event::Failed`] and ends that one alone.
    pub fn advance(&mut self, mut each: impl FnMut(u64, Event)) -> Result<()> {
        let each = &mut each;
        self.admit(each);
        self.read()?;
        for position in 0..self.engine.model().config().block_length {
            let result = self.step(position, each);
            self.release();
            result?;
        }
        Ok(())
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
            let used = self.memory().saturating_add(first.bytes);
            let full = self.options.memory.is_some_and(|memory| used > memory);
            // Where nothing runs, it is kept out by beginnings that the caller keeps, and waiting would have no end.
            let never = full && self.running.is_empty();
            if self.running.len() == self.options.sequences || full && !never {
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

    fn join(&self, id: u64, request: Request, options: &SessionOptions, bytes: u64) -> Result<Running> {
        let model = self.engine.model();
        let mut sampler = Sampler::new(request.sampler, model.config().vocabulary)?;
        let sequence = match &request.start {
            Some(start) => {
                sampler.remember(&start.recent(sampler.options().repetition_window));
                let mut sequence = Sequence::clone(start);
                if request.prompt.is_empty() {
                    // Its logits may have been computed before.
                    sequence.reopen();
                }
                sequence
            }
            None => self.engine.runtime().sequence(options)?,
        };
        request.prompt.iter().for_each(|token| sampler.accept(*token));
        let mut context = request.start.as_ref().map_or_else(Vec::new, |start| start.recent(CONTEXT));
        context.extend(&request.prompt[request.prompt.len().saturating_sub(CONTEXT)..]);
        let end_token = model.end_token();
        let completion =
            Completion::new(self.tokenizer.clone(), &context, &request.stops, &request.generate, end_token)?;
        Ok(Running {
            id,
            sequence,
            sampler,
            completion,
            prompt: request.prompt,
            read: 0,
            forced: request.forced,
            interrupt: request.interrupt,
            bytes,
            left: false,
            choice: None,
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

    /// One token for each sequence whose open block has so many tokens.
    fn step(&mut self, position: usize, each: &mut impl FnMut(u64, Event)) -> Result<()> {
        for running in self.running.iter_mut().filter(|running| running.writes_at(position)) {
            if running.interrupt.check().is_err() {
                running.finish(End::Caller, each);
            } else if let Some(end) = running.completion.limit() {
                running.finish(end, each);
            }
        }
        let writers = self.running.iter_mut().filter(|running| running.writes_at(position));
        let mut writers: Vec<&mut Running> = writers.collect();
        step::step(&mut self.engine, &mut writers)?;
        writers.into_iter().for_each(|running| running.take_choice(each));
        Ok(())
    }

    /// Gives back the memory of those that have left.
    fn release(&mut self) {
        self.running.retain(|running| !running.left);
    }
}

impl Running {
    fn is_reading(&self) -> bool {
        self.read < self.prompt.len()
    }

    /// Whether it is its turn when the open blocks have `position` tokens.
    fn writes_at(&self, position: usize) -> bool {
        !self.left && !self.is_reading() && self.sequence.position_in_block() == position
    }

    /// Takes the outcome of a step: a token, the end of the text, or a failure.
    fn take_choice(&mut self, each: &mut impl FnMut(u64, Event)) {
        let token = match self.choice.take() {
            None => return,
            Some(Err(error)) => return self.fail(error, each),
            Some(Ok(choice)) => choice.token,
        };
        let Some(token) = token else { return self.finish(End::EndOfText, each) };
        self.sampler.accept(token.id);
        let passed = match self.completion.push(token.id) {
            Ok(passed) => passed,
            Err(error) => return self.fail(error, each),
        };
        each(self.id, Event::Step(Step { token: Some(token), text: passed.text }));
        if passed.stopped {
            self.leave(End::Stop, each);
        } else if let Some(end) = self.completion.limit() {
            self.finish(end, each);
        }
    }

    /// Ends the text with what was held back of it.
    fn finish(&mut self, end: End, each: &mut impl FnMut(u64, Event)) {
        match self.completion.finish() {
            Ok(passed) => {
                if !passed.text.is_empty() {
                    each(self.id, Event::Step(Step { token: None, text: passed.text }));
                }
                self.leave(if passed.stopped { End::Stop } else { end }, each);
            }
            Err(error) => self.fail(error, each),
        }
    }

    fn leave(&mut self, end: End, each: &mut impl FnMut(u64, Event)) {
        self.left = true;
        each(self.id, Event::Ended(end, self.completion.count()));
    }

    fn fail(&mut self, error: Error, each: &mut impl FnMut(u64, Event)) {
        self.left = true;
        each(self.id, Event::Failed(error));
    }
}

impl Writer for Running {
    fn sequence(&mut self) -> &mut Sequence {
        &mut self.sequence
    }

    /// Chooses a token, but adds none that is the last of its text. Logits that are not finite end this text alone.
    fn choose(&mut self, logits: Option<Result<&[f32]>>) -> Result<Option<u32>> {
        let logits = match logits {
            Some(Ok(logits)) => logits,
            Some(Err(error)) => {
                self.choice = Some(Err(error));
                return Ok(None);
            }
            None => return Ok(None),
        };
        let random = self.sampler.state().0;
        let id = match self.forced.get(self.completion.count()) {
            Some(id) => *id,
            None => self.sampler.sample(logits),
        };
        let token = match self.completion.ends(id) {
            true => Ok(None),
            false => self.completion.token(id, logits).map(Some),
        };
        self.choice = Some(token.map(|token| Choice { random, token }));
        let token = self.choice.iter().flatten().find_map(|choice| choice.token.as_ref());
        Ok(token.map(|token| token.id).filter(|_| !self.completion.is_last()))
    }

    fn undo(&mut self) {
        if let Some(Ok(choice)) = self.choice.take() {
            self.sampler.undo(choice.random);
        }
        self.sequence.reopen();
    }
}
