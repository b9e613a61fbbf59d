//! What speculation gains: the same text with and without it, in turns.

use std::time::Instant;

use cinderblock::{Generator, Model, Result, Runtime, SamplerOptions, SessionOptions, Speculate, Tokenizer};
use serde_json::{Value as Json, json};

use super::median;
use crate::interrupt;

/// Tokens that a repetitive text repeats.
const PASSAGE: usize = 100;
/// Tokens before anything is measured.
const PROMPT: usize = 3 * PASSAGE;
/// Tokens between two turns.
const TURN: usize = 32;

/// Texts by kind. Where a model has no tokenizer, each word and each mark is a token: any vocabulary can hold them.
const TEXTS: [(&str, &str); 3] = [
    ("prose", include_str!("../../../docs/memory.md")),
    ("dialogue", include_str!("dialogue.txt")),
    ("code", include_str!("speculation.rs")),
];

/// The name of what the model writes.
const OWN: &str = "own";

/// One text.
pub struct Speedup {
    text: &'static str,
    tokens: usize,
    threads: usize,
    tokens_per_pass: f64,
    /// Tokens a second, without and with.
    tok_s: [f64; 2],
    /// The median over the turns of the time without, divided by that with.
    speed_up: f64,
}

/// The tokens of a text, as the model's tokenizer has them, or a token a word.
fn tokens(text: &str, tokenizer: Option<&Tokenizer>, vocabulary: usize) -> Result<Vec<u32>> {
    if let Some(tokenizer) = tokenizer {
        return tokenizer.encode(text);
    }
    let mut words = std::collections::HashMap::new();
    let split = text.split_inclusive(|c: char| !c.is_alphanumeric());
    let parts = split.flat_map(|part| {
        let word = part.trim_end_matches(|c: char| !c.is_alphanumeric());
        [word, part[word.len()..].trim()]
    });
    let tokens = parts.filter(|part| !part.is_empty()).map(|part| {
        let next = words.len();
        (*words.entry(part).or_insert(next) % vocabulary) as u32
    });
    Ok(tokens.collect())
}

/// The texts, each of at most `PROMPT + count` tokens.
fn texts(model: &Model, count: usize) -> Result<Vec<(&'static str, Vec<u32>)>> {
    let length = PROMPT + count;
    let vocabulary = model.config().vocabulary;
    let mut state = 1u64;
    let random: Vec<u32> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((state >> 33) % vocabulary as u64) as u32
    })
    .take(length)
    .collect();
    let repeated = random[..PASSAGE].iter().copied().cycle().take(length).collect();
    let tokenizer = model.tokenizer_json().map(Tokenizer::from_json).transpose()?;
    let mut all = vec![("repeats", repeated)];
    for (name, text) in TEXTS {
        let mut tokens = tokens(text, tokenizer.as_ref(), vocabulary)?;
        tokens.truncate(length);
        all.push((name, tokens));
    }
    all.push(("random", random));
    Ok(all)
}

/// The rate at which texts are generated, each given to a generator token by token, as if it had been sampled; the last
/// one, `own`, is sampled by the model with the default options.
pub fn measure(runtime: &Runtime, count: usize) -> Result<Vec<Speedup>> {
    let greedy = SamplerOptions { temperature: 0.0, ..Default::default() };
    let start = |speculate: Speculate, prompt: &[u32]| -> Result<Generator> {
        let mut generator = runtime.generator(&SessionOptions::default())?;
        generator.set_speculation(speculate);
        generator.append(prompt)?;
        Ok(generator)
    };
    let mut sampler = cinderblock::Sampler::new(greedy, runtime.model().config().vocabulary)?;
    let mut rows = Vec::new();
    let mut texts = texts(runtime.model(), count)?;
    let prose = texts[1].1[..PROMPT.min(texts[1].1.len())].to_vec();
    texts.push((OWN, [prose, vec![0; count]].concat()));
    for (text, tokens) in texts {
        let (prompt, rest) = tokens.split_at(PROMPT.min(tokens.len()));
        let mut generators = [start(Speculate::Off, prompt)?, start(Speculate::Auto, prompt)?];
        let (mut total, mut ratios) = ([0.0; 2], Vec::new());
        for (turn, tokens) in rest.chunks(TURN).enumerate() {
            interrupt::check()?;
            let mut seconds = [0.0; 2];
            // Who comes first changes, because a turn warms the caches for the next one.
            for which in [turn % 2, 1 - turn % 2] {
                let started = Instant::now();
                for token in tokens {
                    if text == OWN {
                        generators[which].next_token()?;
                        continue;
                    }
                    // What is sampled is not used, but it takes its time.
                    std::hint::black_box(sampler.sample(generators[which].logits()?));
                    generators[which].append(std::slice::from_ref(token))?;
                }
                seconds[which] = started.elapsed().as_secs_f64();
            }
            total = [total[0] + seconds[0], total[1] + seconds[1]];
            ratios.push(seconds[0] / seconds[1]);
        }
        if ratios.is_empty() {
            continue;
        }
        rows.push(Speedup {
            text,
            tokens: rest.len(),
            threads: runtime.team().threads(),
            tokens_per_pass: generators[1].speculation_counts().tokens_per_pass(),
            tok_s: total.map(|seconds| rest.len() as f64 / seconds),
            speed_up: median(ratios).0,
        });
    }
    Ok(rows)
}

impl Speedup {
    pub fn json(&self) -> Json {
        json!({
            "phase": "speculate",
            "text": self.text,
            "batch": 1,
            "context": PROMPT,
            "tokens": self.tokens,
            "threads": self.threads,
            "tok_s": self.tok_s[1],
            "plain_tok_s": self.tok_s[0],
            "speed_up": self.speed_up,
            "tokens_per_pass": self.tokens_per_pass,
        })
    }

    /// The names above the lines.
    pub fn header() -> String {
        let names = ["threads", "tokens", "a pass", "plain/s", "tok/s", "speed-up"];
        let [threads, tokens, pass, plain, rate, speed_up] = names;
        format!(
            "{:8} {:8} {threads:>7} {tokens:>6} {pass:>7} {plain:>9} {rate:>9} {speed_up:>8}\n",
            "phase", "text"
        )
    }

    pub fn line(&self) -> String {
        format!(
            "{:8} {:8} {:>7} {:>6} {:>7.2} {:>9.1} {:>9.1} {:>7.2}x\n",
            "spec",
            self.text,
            self.threads,
            self.tokens,
            self.tokens_per_pass,
            self.tok_s[0],
            self.tok_s[1],
            self.speed_up
        )
    }
}
