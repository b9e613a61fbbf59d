// Token ids in and out, one at a time, as builds without a tokenizer work.

use cinderblock::{Runtime, Sampler, SamplerOptions, SessionOptions};

fn main() -> cinderblock::Result<()> {
    let runtime = Runtime::open("models/classics.q4.gguf")?;
    let mut session = runtime.session(&SessionOptions::default())?;
    let mut sampler = Sampler::new(SamplerOptions::default(), runtime.model().config().vocabulary)?;
    // "The rain had stopped, and the village came out to look."
    session.append(&[491, 3364, 347, 1966, 13, 279, 263, 2864, 709, 475, 280, 534, 15])?;
    for _ in 0..16 {
        let token = sampler.sample(session.logits()?);
        println!("{token}");
        session.append(&[token])?;
    }
    Ok(())
}
