//! Loss right behind prompts that do not fill whole blocks, under both alignments.

use cinderblock::{Alignment, Result, Runtime, SessionOptions, negative_log_likelihood};

use crate::mean;

/// Tokens that are scored behind each prompt.
const SCORED: usize = 16;
/// Prompts of each length.
const PROMPTS: usize = 40;
/// Shortest and longest prompt of each line that is printed.
const LENGTHS: [(usize, usize); 4] = [(5, 8), (9, 16), (17, 32), (33, 64)];

pub fn run(runtime: &Runtime, ids: &[u32]) -> Result<()> {
    let block = runtime.model().config().block_length;
    let mut sessions = Vec::new();
    for alignment in Alignment::ALL {
        let options = SessionOptions { alignment: Some(alignment), ..Default::default() };
        sessions.push((alignment, runtime.session(&options)?));
    }
    println!("nats a token behind ragged prompts: the next 1, {block}, {SCORED} tokens");
    for (shortest, longest) in LENGTHS {
        for (alignment, session) in &mut sessions {
            let mut losses = Vec::new();
            for length in (shortest..=longest).filter(|length| length % block != 0) {
                for prompt in 0..PROMPTS {
                    // The same prompts for both, spread over the text.
                    let start = (prompt * longest + length) * 7919 % (ids.len() - length - SCORED);
                    let text = &ids[start..start + length + SCORED];
                    session.clear();
                    session.append(&text[..length])?;
                    let mut behind = Vec::new();
                    for token in &text[length..] {
                        behind.push(negative_log_likelihood(session.logits()?, *token));
                        session.append(&[*token])?;
                    }
                    losses.push(behind);
                }
            }
            let of_next = |count: usize| mean(losses.iter().flat_map(|behind| &behind[..count]).copied());
            println!(
                "prompts of {shortest:2} to {longest:2} tokens, {:4}: {:.4} {:.4} {:.4} ({} prompts)",
                alignment.name(),
                of_next(1),
                of_next(block),
                of_next(SCORED),
                losses.len()
            );
        }
    }
    Ok(())
}
