//! `run --samples`: several texts that follow one prompt, which is read once.

use std::sync::Arc;
use std::time::Instant;

use cinderblock::error::{Error, ErrorKind, Result};
use cinderblock::generation::tokenizer::Tokenizer;
use cinderblock::{
    Batch, BatchOptions, End, Event, Model, Request, SamplerOptions, SessionOptions, Team, Token,
};
use serde_json::{Value as Json, json};

use crate::{interrupt, memory, output};

/// What is asked for.
pub struct Samples {
    pub count: u32,
    pub prompt: Vec<u32>,
    /// What all have in common; the seeds count on from its own.
    pub request: Request,
    pub json: bool,
}

#[derive(Default)]
struct Sample {
    seed: u64,
    tokens: Vec<Token>,
    text: String,
    end: Option<End>,
}

impl Samples {
    /// Writes the texts and prints them, one after the other.
    pub fn run(
        self,
        model: &Arc<Model>,
        team: &Arc<Team>,
        tokenizer: Option<Tokenizer>,
        session: SessionOptions,
    ) -> Result<()> {
        let Samples { count, prompt, request, json } = self;
        let options = BatchOptions { session, sequences: count as usize, memory: None };
        let has_text = tokenizer.is_some();
        let mut batch = Batch::new(model, team, tokenizer.map(Arc::new), options)?;
        interrupt::listen_for(batch.interrupt());
        let started = Instant::now();
        let start = batch.begin(&prompt, request.generate.max_tokens)?;
        let prompt_time = started.elapsed();
        let mut samples: Vec<Sample> = Vec::new();
        for index in 0..u64::from(count) {
            let seed = request.sampler.seed.wrapping_add(index);
            let sampler = SamplerOptions { seed, ..request.sampler.clone() };
            batch.submit(Request { start: Some(Arc::clone(&start)), sampler, ..request.clone() })?;
            samples.push(Sample { seed, ..Default::default() });
        }
        drop(start);
        let started = Instant::now();
        let mut failure = None;
        while batch.running() + batch.waiting() > 0 {
            batch.advance(|id, event| match event {
                Event::Step(step) => {
                    samples[id as usize].tokens.extend(step.token);
                    samples[id as usize].text += &step.text;
                }
                Event::Ended(end, _) => samples[id as usize].end = Some(end),
                Event::Failed(error) => failure = Some(error),
            })?;
            failure.take().map_or(Ok(()), Err)?;
        }
        let time = started.elapsed();
        let generated: usize = samples.iter().map(|sample| sample.tokens.len()).sum();
        let (prompt_rate, rate) = (output::rate(prompt.len(), prompt_time), output::rate(generated, time));
        if json {
            let each = samples.iter().map(|sample| sample.json(has_text)).collect::<Result<Vec<Json>>>()?;
            output::print_json(&json!({
                "samples": each,
                "prompt_tokens": prompt.len(),
                "generated_tokens": generated,
                "prompt_tok_s": prompt_rate,
                "decode_tok_s": rate,
                "peak_memory_bytes": memory::peak(),
                "isa": model.kernels().isa().name(),
                "threads": team.threads(),
            }))?;
        } else {
            for (number, sample) in (1..).zip(&samples) {
                output::print(&sample.show(number, has_text)?)?;
            }
        }
        output::message(&format!(
            "prompt {} tokens, {prompt_rate:.0} tok/s | generated {generated} tokens in {count} texts, {rate:.1} tok/s",
            prompt.len()
        ));
        Ok(())
    }
}

impl Sample {
    fn end(&self) -> Result<&'static str> {
        let defect = || Error::new(ErrorKind::Internal, "a text has no end");
        self.end.map(End::name).ok_or_else(defect)
    }

    fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    fn show(&self, number: u32, has_text: bool) -> Result<String> {
        let ids = || self.ids().iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let text = if has_text { self.text.clone() } else { ids() };
        Ok(format!("--- sample {number}, seed {}, ended by {}\n{text}\n", self.seed, self.end()?))
    }

    fn json(&self, has_text: bool) -> Result<Json> {
        let mut json = json!({
            "seed": self.seed,
            "tokens": self.ids(),
            "text": has_text.then_some(&self.text),
            "end": self.end()?,
        });
        if self.tokens.iter().any(|token| token.logprob.is_some()) {
            let one = |token: &Token| json!({"logprob": token.logprob, "top": token.top});
            json["logprobs"] = self.tokens.iter().map(one).collect();
        }
        Ok(json)
    }
}
