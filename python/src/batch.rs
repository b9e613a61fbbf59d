//! Many texts together: generated, or scored.

use std::collections::HashMap;
use std::sync::Arc;

use cinderblock::{
    BatchOptions, Error, Event, Request, Result, Runtime, SamplerOptions, SessionOptions, Token, Tokenizer,
};
use cinderblock_tools::unstable::{Prompt, scoring, tokens_of};

use crate::options::{Compiler, Options, compile, tokens};
use crate::results::{Score, Text};
use crate::work::Signals;

/// What a batch runs on.
pub struct Job<'a> {
    pub runtime: &'a Runtime,
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Sequences at a time.
    pub sequences: usize,
    /// Bytes at most.
    pub memory: Option<u64>,
    /// Bytes of ended texts that are kept, so that prompts that begin alike are read once.
    pub prefix_cache: u64,
    pub session: SessionOptions,
}

/// Continuations of one prompt, each with its place in the answer.
type Group = (Vec<u32>, Vec<(usize, usize, Vec<u32>)>);

impl<'a> Job<'a> {
    pub fn new(runtime: &'a Runtime, tokenizer: Option<Arc<Tokenizer>>) -> Job<'a> {
        let session = SessionOptions::default();
        Job { runtime, tokenizer, sequences: 32, memory: None, prefix_cache: 0, session }
    }

    fn options(&self) -> BatchOptions {
        let Job { sequences, memory, prefix_cache, .. } = *self;
        BatchOptions {
            session: self.session.clone(),
            sequences,
            memory,
            prefix_cache,
            ..BatchOptions::default()
        }
    }

    /// A text for each prompt. `report` gets the number that is done, and all.
    ///
    /// # Errors
    /// What is wrong with the first text that fails, or `Interrupted`.
    pub fn generate(
        &self,
        prompts: Vec<Prompt>,
        options: &Options,
        compiler: &Compiler,
        signals: &mut Signals,
        mut report: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<Vec<Text>> {
        let (seeds, total) = (&options.seeds, prompts.len());
        if !seeds.is_empty() && seeds.len() != total {
            let found = seeds.len();
            return Err(Error::argument(format!("seed: found {found}, expected one or {total}")));
        }
        let mut batch = self.runtime.batch(self.tokenizer.clone(), self.options())?;
        let constraint = compile(compiler, options.form.as_ref())?;
        let mut texts: Vec<Text> = std::iter::repeat_with(Text::default).take(total).collect();
        // Requests have the numbers 0, 1, ... in their order.
        for (index, prompt) in prompts.into_iter().enumerate() {
            let seed = seeds.get(index).copied().unwrap_or(options.sampler.seed);
            batch.submit(Request {
                prompt: tokens(prompt, self.tokenizer.as_deref())?,
                sampler: SamplerOptions { seed, ..options.sampler.clone() },
                generate: options.generate.clone(),
                constraint: constraint.clone(),
                stops: options.stops.clone(),
                ..Request::default()
            })?;
        }
        let (mut done, mut reported) = (0, 0);
        report(done, total)?;
        while batch.running() + batch.waiting() > 0 {
            let mut failure = None;
            batch.advance(|id, event| match event {
                Event::Step(step) => texts[id as usize].push(step),
                Event::Ended(end, _) => {
                    texts[id as usize].end = Some(end);
                    done += 1;
                }
                Event::Failed(error) => failure = failure.take().or(Some(error)),
            })?;
            failure.map_or(Ok(()), Err)?;
            signals.poll()?;
            if done > reported {
                reported = done;
                report(done, total)?;
            }
        }
        Ok(texts)
    }

    /// The scores of the continuations of each prompt. A prompt is read once.
    ///
    /// # Errors
    /// What is wrong with the first that fails, or `Interrupted`.
    pub fn score(
        &self,
        questions: &[(Prompt, Vec<Prompt>)],
        signals: &mut Signals,
    ) -> Result<Vec<Vec<Score>>> {
        let mut groups = self.groups(questions)?.into_iter().peekable();
        let mut batch = self.runtime.batch(self.tokenizer.clone(), self.options())?;
        let mut scores: Vec<Vec<Option<Score>>> =
            questions.iter().map(|(_, continuations)| continuations.iter().map(|_| None).collect()).collect();
        let mut jobs: HashMap<u64, (usize, usize, Vec<Token>)> = HashMap::new();
        loop {
            while let Some((prompt, forced)) = groups.peek() {
                let longest = forced.iter().map(|(.., tokens)| tokens.len()).max().unwrap_or(0);
                let busy = batch.running() + batch.waiting() > 0;
                if busy && (batch.waiting() >= self.sequences || !batch.has_room(prompt.len(), longest)) {
                    break;
                }
                let Some((prompt, forced)) = groups.next() else { break };
                let start = batch.begin(&prompt, longest)?;
                signals.poll()?;
                for (question, index, forced) in forced {
                    let start = Some(Arc::clone(&start));
                    let number = batch.submit(Request { start, ..scoring(forced) })?;
                    jobs.insert(number, (question, index, Vec::new()));
                }
            }
            if batch.running() + batch.waiting() == 0 {
                break;
            }
            let mut failure = None;
            batch.advance(|id, event| match event {
                Event::Step(step) => {
                    if let Some((.., tokens)) = jobs.get_mut(&id) {
                        tokens.extend(step.token);
                    }
                }
                Event::Ended(..) => {
                    if let Some((question, index, tokens)) = jobs.remove(&id) {
                        scores[question][index] = Some(Score::new(&tokens));
                    }
                }
                Event::Failed(error) => failure = failure.take().or(Some(error)),
            })?;
            failure.map_or(Ok(()), Err)?;
            signals.poll()?;
        }
        Ok(scores.into_iter().map(|scores| scores.into_iter().flatten().collect()).collect())
    }

    /// Continuations that follow the same tokens, question after question.
    fn groups(&self, questions: &[(Prompt, Vec<Prompt>)]) -> Result<Vec<Group>> {
        let mut groups: Vec<Group> = Vec::new();
        for (question, (prompt, continuations)) in questions.iter().enumerate() {
            let first = groups.len();
            for (index, continuation) in continuations.iter().enumerate() {
                let (before, own) =
                    tokens_of(prompt, continuation, self.runtime.model(), self.tokenizer.as_deref())?;
                let forced = (question, index, own);
                match groups[first..].iter_mut().find(|group| group.0 == before) {
                    Some(group) => group.1.push(forced),
                    None => groups.push((before, vec![forced])),
                }
            }
        }
        Ok(groups)
    }
}
