//! Many texts together: generated, or scored.

use std::sync::Arc;

use cinderblock::{
    BatchOptions, Error, Event, Request, Result, Runtime, SamplerOptions, SessionOptions, Tokenizer,
};
use cinderblock_tools::unstable::{Prompt, Score, Scoring};

use crate::options::{Compiler, Options, compile, tokens};
use crate::results::Text;
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
        let (model, tokenizer) = (self.runtime.model(), self.tokenizer.as_deref());
        let mut scoring = Scoring::default();
        for (question, (prompt, continuations)) in (0..).zip(questions) {
            let (_, wrong) = scoring.ask(question, prompt, continuations, model, tokenizer);
            wrong.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))?;
        }
        let mut batch = self.runtime.batch(self.tokenizer.clone(), self.options())?;
        let mut scores: Vec<Vec<Option<Score>>> =
            questions.iter().map(|(_, continuations)| vec![None; continuations.len()]).collect();
        loop {
            while batch.waiting() < self.sequences
                && let Some(refused) = scoring.begin(&mut batch)?
            {
                refused.into_iter().next().map_or(Ok(()), |refused| Err(refused.error))?;
                signals.poll()?;
            }
            if batch.running() + batch.waiting() == 0 {
                break;
            }
            let mut failure = None;
            batch.advance(|id, event| match scoring.take(id, event) {
                Some(((question, index), Ok(score))) => scores[question as usize][index] = Some(score),
                Some((_, Err(error))) => failure = failure.take().or(Some(error)),
                None => {}
            })?;
            failure.map_or(Ok(()), Err)?;
            signals.poll()?;
        }
        Ok(scores.into_iter().map(|scores| scores.into_iter().flatten().collect()).collect())
    }
}
