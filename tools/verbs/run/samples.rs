//! `run --samples`: several texts that follow one prompt, which is read once.

use std::sync::Arc;
use std::time::Instant;

use cinderblock::{
    BatchOptions, End, ErrorKind, Event, Request, Result, Runtime, SamplerOptions, SessionOptions, Speculate,
    Token, Tokenizer,
};
use serde_json::{Value as Json, json};

use crate::conversation::end_name;
use crate::{interrupt, memory, output};

/// A request for several texts.
pub struct Samples {
    pub count: u32,
    pub prompt: Vec<u32>,
    /// The options of all of them; the seeds are its own, its own + 1, and so on.
    pub request: Request,
    pub speculate: Speculate,
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
    /// Generates the texts together and prints them, one after the other; after Ctrl-C, as far as they have come.
    pub fn run(self, runtime: &Runtime, tokenizer: Option<Tokenizer>, session: SessionOptions) -> Result<()> {
        let Samples { count, prompt, request, speculate, json } = self;
        let options =
            BatchOptions { session, sequences: count as usize, speculate, ..BatchOptions::default() };
        let has_text = tokenizer.is_some();
        let mut batch = runtime.batch(tokenizer.map(Arc::new), options)?;
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
        let mut interrupted = false;
        while !interrupted && batch.running() + batch.waiting() > 0 {
            let advanced = batch.advance(|id, event| match event {
                Event::Step(step) => {
                    samples[id as usize].tokens.extend(step.token);
                    samples[id as usize].text += &step.text;
                }
                Event::Ended(end, _) => samples[id as usize].end = Some(end),
                Event::Failed(error) => failure = Some(error),
            });
            match advanced {
                // The texts so far are shown.
                Err(error) if error.kind() == ErrorKind::Interrupted => interrupted = true,
                advanced => advanced?,
            }
            failure.take().map_or(Ok(()), Err)?;
        }
        let time = started.elapsed();
        let generated: usize = samples.iter().map(|sample| sample.tokens.len()).sum();
        let rate = output::rate(generated, time);
        // Fewer tokens than a block only wait in the open block, which takes no time.
        let passed = prompt.len() >= runtime.model().config().block_length;
        let prompt_rate = passed.then(|| output::rate(prompt.len(), prompt_time));
        if json {
            let each: Vec<Json> = samples.iter().map(|sample| sample.json(has_text)).collect();
            output::print_json(&json!({
                "samples": each,
                "prompt_tokens": prompt.len(),
                "generated_tokens": generated,
                "prompt_tok_s": prompt_rate,
                "decode_tok_s": rate,
                "peak_memory_bytes": memory::peak(),
                "isa": runtime.model().kernels().isa().name(),
                "threads": runtime.team().threads(),
            }))?;
        } else {
            for (number, sample) in (1..).zip(&samples) {
                output::print(&sample.show(number, has_text))?;
            }
        }
        let prompt_rate = prompt_rate.map_or(String::new(), |rate| format!(", {rate:.0} tok/s"));
        output::message(&format!(
            "prompt {} tokens{prompt_rate} | generated {generated} tokens in {count} texts, {rate:.1} tok/s",
            prompt.len()
        ));
        if interrupted { Err(interrupt::reported()) } else { Ok(()) }
    }
}

impl Sample {
    fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    fn show(&self, number: u32, has_text: bool) -> String {
        let ids = || self.ids().iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let text = if has_text { self.text.clone() } else { ids() };
        format!("--- sample {number}, seed {}, ended by {}\n{text}\n", self.seed, end_name(self.end))
    }

    fn json(&self, has_text: bool) -> Json {
        let mut json = json!({
            "seed": self.seed,
            "tokens": self.ids(),
            "text": has_text.then_some(&self.text),
            "end": end_name(self.end),
        });
        if self.tokens.iter().any(|token| token.logprob.is_some()) {
            let one = |token: &Token| json!({"logprob": token.logprob, "top": token.top});
            json["logprobs"] = self.tokens.iter().map(one).collect();
        }
        json
    }
}
