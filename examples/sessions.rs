// Saves a session, continues it twice, and goes back to the prompt.

use std::ops::ControlFlow;

use cinderblock::{GenerateOptions, Generator, Runtime, SessionOptions, Snapshot, Tokenizer};

fn continue_text(generator: &mut Generator, tokenizer: &Tokenizer) -> cinderblock::Result<String> {
    let options = GenerateOptions { max_tokens: 40, ..GenerateOptions::default() };
    let mut text = String::new();
    generator.generate(Some(tokenizer), &options, |step| {
        text += &step.text;
        ControlFlow::Continue(())
    })?;
    Ok(text)
}

fn main() -> cinderblock::Result<()> {
    let runtime = Runtime::open("models/classics.q4.gguf")?;
    let tokenizer = Tokenizer::of_model(runtime.model())?;
    // A cache of 64 blocks (256 tokens) that never forgets the first 8: memory is allocated once, text may be endless.
    let options = SessionOptions { cache_blocks: Some(64), sink_blocks: 8, ..SessionOptions::default() };
    let mut generator = runtime.generator(&options)?;
    generator.append(&tokenizer.encode("The rain had stopped, and the village came out to look.")?)?;
    let blocks = generator.blocks();

    // The cache, the tokens and the sampler. `Snapshot::write` and `Snapshot::read` do the same with a file.
    let saved = generator.save()?;
    println!("{} bytes saved", saved.bytes().len());
    let first = continue_text(&mut generator, &tokenizer)?;

    // The checks of `from_bytes` make bytes from anywhere safe to load; they belong to this model alone.
    let snapshot = Snapshot::from_bytes(runtime.model(), saved.bytes())?;
    let mut restored = runtime.load(&snapshot)?;
    assert_eq!(continue_text(&mut restored, &tokenizer)?, first);
    println!("{first}");

    // Back to the whole blocks of the prompt, without its open block, and on with another text.
    generator.rewind(blocks)?;
    generator.append(&tokenizer.encode(" Nobody was there.")?)?;
    println!("{}", continue_text(&mut generator, &tokenizer)?);
    Ok(())
}
