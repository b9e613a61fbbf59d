// Continues a text with the demo model.

use std::ops::ControlFlow;

use cinderblock::{GenerateOptions, Runtime, SessionOptions, Tokenizer};

fn main() -> cinderblock::Result<()> {
    let runtime = Runtime::open("models/classics.q4.gguf")?;
    let tokenizer = Tokenizer::of_model(runtime.model())?;

    let mut text = "The rain had stopped, and the village came out to look.".to_string();
    let mut generator = runtime.generator(&SessionOptions::default())?;
    generator.append(&tokenizer.encode(&text)?)?;

    let options = GenerateOptions { max_tokens: 100, ..GenerateOptions::default() };
    generator.generate(Some(&tokenizer), &options, |step| {
        text += &step.text;
        ControlFlow::Continue(())
    })?;
    println!("{text}");
    Ok(())
}
