// Prints a text while it is generated, and ends it after three sentences.

use std::io::{self, Write};
use std::ops::ControlFlow;

use cinderblock::{GenerateOptions, Runtime, SamplerOptions, SessionOptions, Tokenizer};

fn main() -> cinderblock::Result<()> {
    let runtime = Runtime::open("models/classics.q4.gguf")?;
    let tokenizer = Tokenizer::of_model(runtime.model())?;
    let mut generator = runtime.generator(&SessionOptions::default())?;
    generator.set_sampler(SamplerOptions { temperature: 0.7, seed: 7, ..SamplerOptions::default() })?;
    // The text ends before a stop string, which is never shown.
    generator.set_stops(vec!["CHAPTER".to_string()]);
    generator.append(&tokenizer.encode("The rain had stopped, and the village came out to look.")?)?;

    let mut sentences = 0;
    let (end, tokens) = generator.generate(Some(&tokenizer), &GenerateOptions::default(), |step| {
        // Whole characters that no later token changes; empty for a token that completes none.
        print!("{}", step.text);
        sentences += step.text.matches('.').count();
        if sentences < 3 && io::stdout().flush().is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    // Another thread could have ended it with a clone of `generator.interrupt()`.
    println!("\n[{tokens} tokens, end: {}]", end.name());
    Ok(())
}
