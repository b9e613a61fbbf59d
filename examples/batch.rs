// Generates texts for several prompts at once. Each is, to the bit, the text that its prompt gets alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use cinderblock::{BatchOptions, Event, GenerateOptions, Request, Runtime, SamplerOptions, Tokenizer};

const PROMPTS: [&str; 3] = [
    "The rain had stopped, and the village came out to look.",
    "It was late in the autumn when the ship came into the harbour.",
    "My aunt never spoke of the year that she had spent abroad.",
];

fn main() -> cinderblock::Result<()> {
    let runtime = Runtime::open("models/classics.q4.gguf")?;
    let tokenizer = Arc::new(Tokenizer::of_model(runtime.model())?);
    // `memory` would limit weights, caches and buffers together; requests then wait for their turn.
    let options = BatchOptions { sequences: 8, ..BatchOptions::default() };
    let mut batch = runtime.batch(Some(Arc::clone(&tokenizer)), options)?;

    let mut texts = BTreeMap::new();
    for (seed, prompt) in (0..).zip(PROMPTS) {
        let id = batch.submit(Request {
            prompt: tokenizer.encode(prompt)?,
            sampler: SamplerOptions { seed, ..SamplerOptions::default() },
            generate: GenerateOptions { max_tokens: 40, ..GenerateOptions::default() },
            ..Request::default()
        })?;
        texts.insert(id, prompt.to_string());
    }
    // Requests may be submitted at any time between two advances, each of which is a block of every text.
    while batch.waiting() + batch.running() > 0 {
        batch.advance(|id, event| {
            let text = texts.entry(id).or_default();
            match event {
                Event::Step(step) => text.push_str(&step.text),
                Event::Ended(end, tokens) => *text += &format!(" [{tokens} tokens, end: {}]", end.name()),
                // An error ends this text alone.
                Event::Failed(error) => *text += &format!(" [error: {error}]"),
            }
        })?;
    }
    for text in texts.values() {
        println!("{text}\n");
    }
    Ok(())
}
