use cinderblock::{Model, Sampler, SamplerOptions, Session, SessionOptions, Team};
use std::sync::Arc;

fn main() -> cinderblock::Result<()> {
    let model = Arc::new(Model::open("models/classics.q4.gguf")?);
    let team = Arc::new(Team::new(0)?);
    let mut session = Session::new(&model, &team, &SessionOptions::default())?;
    let mut sampler = Sampler::new(SamplerOptions::default(), model.config().vocabulary)?;
    // "The rain had stopped, and the village came out to look."
    session.append(&[491, 3364, 347, 1966, 13, 279, 263, 2864, 709, 475, 280, 534, 15])?;
    for _ in 0..16 {
        let token = sampler.sample(session.logits()?);
        println!("{token}");
        session.append(&[token])?;
    }
    Ok(())
}
