//! A sampler with any options: a token that is forbidden is never chosen, and the same seed gives the same tokens.

use cinderblock::{Sampler, SamplerOptions};

use super::{Choices, check};

pub fn run(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let vocabulary = 1 + choices.below(40);
    let options = SamplerOptions {
        temperature: choices.float(),
        top_k: choices.size() as usize,
        top_p: choices.float(),
        min_p: choices.float(),
        repetition_penalty: choices.float(),
        repetition_window: choices.size() as usize,
        seed: choices.size(),
        logit_bias: (0..choices.below(20))
            .map(|_| (u32::from(choices.byte()) % 48, choices.float()))
            .collect(),
    };
    let Some(mut sampler) = check(Sampler::new(options.clone(), vocabulary)) else { return };
    let mut twin = Sampler::new(options.clone(), vocabulary).expect("accepted before");
    let forbidden =
        |token: u32| options.logit_bias.iter().any(|(id, bias)| *id == token && *bias == f32::NEG_INFINITY);
    for _ in 0..4 {
        let mut logit = || Some(choices.float()).filter(|logit| logit.is_finite()).unwrap_or(0.25);
        let logits: Vec<f32> = (0..vocabulary).map(|_| logit()).collect();
        let token = sampler.sample(&logits);
        assert!((token as usize) < vocabulary && !forbidden(token), "chose {token}: {options:?}");
        assert_eq!(twin.sample(&logits), token, "{options:?}");
        sampler.accept(token);
        twin.accept(token);
    }
}
