//! The time of a pass by part, and the roof of the machine over it.

use std::time::{Duration, Instant};

use cinderblock::unstable::kernels::{Activations, Epilogue, Pass, Product, Term, multiply};
use cinderblock::unstable::quant::{WeightType, Weights};
use cinderblock::unstable::threads::{measure_phases, take_phases};
use cinderblock::{Model, Result, Team};
use serde_json::{Value as Json, json};

/// Seconds of one decoder's passes.
#[derive(Clone, Copy, Default)]
struct Parts {
    /// Products of the layers.
    products: f64,
    attention: f64,
    /// The vocabulary head, and the expansion of contexts.
    head: f64,
    /// Norms, rounding of activations, embeddings, and everything between phases.
    rest: f64,
}

/// Seconds by decoder and part, summed over rounds.
#[derive(Default)]
pub struct Profile {
    block_decoder: Parts,
    token_decoder: Parts,
    /// Choosing tokens.
    choice: f64,
    rounds: usize,
}

/// Whose time it is.
#[derive(Clone, Copy)]
pub enum Decoder {
    Block,
    Token,
}

impl Parts {
    /// Adds a pass that took `total` in all, with the phases it had.
    fn add(&mut self, phases: &[(&str, Duration)], total: f64) {
        let mut left = total;
        for (file, time) in phases {
            let part = match file.rsplit(['/', '\\']).next().unwrap_or(file) {
                "stack.rs" | "t5.rs" => &mut self.products,
                "attention.rs" => &mut self.attention,
                "head.rs" | "neox.rs" => &mut self.head,
                _ => continue,
            };
            *part += time.as_secs_f64();
            left -= time.as_secs_f64();
        }
        self.rest += left;
    }

    fn json(&self, rounds: f64) -> Json {
        let [products, attention, head, rest] =
            [self.products, self.attention, self.head, self.rest].map(|seconds| seconds / rounds);
        json!({ "products": products, "attention": attention, "head": head, "rest": rest })
    }
}

impl Profile {
    /// Starts measuring the passes of a team.
    pub fn start(team: &Team) -> Profile {
        measure_phases(team);
        Profile::default()
    }

    /// Runs a pass of a decoder and adds its time.
    ///
    /// # Errors
    /// Those of the pass.
    pub fn pass<R>(
        profile: &mut Option<Profile>,
        team: &Team,
        decoder: Decoder,
        pass: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        let Some(profile) = profile else { return pass() };
        let started = Instant::now();
        let result = pass()?;
        let parts = match decoder {
            Decoder::Block => &mut profile.block_decoder,
            Decoder::Token => &mut profile.token_decoder,
        };
        parts.add(&take_phases(team), started.elapsed().as_secs_f64());
        Ok(result)
    }

    /// Ends a round: `seconds` is the time of all of it.
    pub fn end_round(&mut self, seconds: f64) {
        self.rounds += 1;
        self.choice += seconds;
    }

    /// Seconds of a round, the mean of all.
    pub fn json(&self) -> Json {
        let sum = |parts: &Parts| parts.products + parts.attention + parts.head + parts.rest;
        let rounds = self.rounds.max(1) as f64;
        let choice = self.choice - sum(&self.block_decoder) - sum(&self.token_decoder);
        json!({
            "block_decoder": self.block_decoder.json(rounds),
            "token_decoder": self.token_decoder.json(rounds),
            "choice": choice / rounds,
        })
    }
}

/// Multiply-adds a second of the kernel for the model's layers with many columns, from the caches: the best of some
/// rounds.
///
/// # Panics
/// Never: the shapes are fixed.
pub fn multiply_adds(team: &Team, model: &Model, kind: WeightType) -> f64 {
    const ROWS: usize = 512;
    const WIDTH: usize = 2048;
    const COLUMNS: usize = 128;
    let bytes = kind.matrix_bytes(ROWS, WIDTH).expect("small");
    // Zero bytes are valid weights of every type, and take as long as any others.
    let data = vec![0u64; bytes / 8];
    let weights = Weights::new(kind, ROWS, WIDTH, bytemuck::cast_slice(&data)).expect("sized");
    let mut input = Activations::new(WIDTH, kind.is_quantized());
    let mut output = vec![0.0; ROWS * COLUMNS];
    let best = team.region(|region| {
        let pass = Pass::new(region, model.kernels());
        input.fill(pass, COLUMNS, |column, values| {
            values.iter_mut().enumerate().for_each(|(i, value)| *value = ((i + column) % 13) as f32 - 6.0);
        });
        let mut best = f64::INFINITY;
        for _ in 0..50 {
            let terms = [Term { weights, bias: &[], input: &input }];
            let started = Instant::now();
            multiply(pass, Product { terms: &terms, epilogue: Epilogue::Store, output: &mut output }, None);
            best = best.min(started.elapsed().as_secs_f64());
        }
        best
    });
    (ROWS * WIDTH * COLUMNS) as f64 / best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_round_add_up_to_its_time() {
        let second = Duration::from_secs(1);
        let mut profile = Profile::default();
        profile
            .block_decoder
            .add(&[("src/model/stack.rs", second), ("src/kernels/activations.rs", second)], 4.0);
        profile.token_decoder.add(&[("src\\model\\token_decoder\\head.rs", second)], 1.5);
        profile.end_round(6.0);
        let parts = profile.json();
        assert_eq!(
            parts["block_decoder"],
            json!({"products": 1.0, "attention": 0.0, "head": 0.0, "rest": 3.0})
        );
        assert_eq!(
            parts["token_decoder"],
            json!({"products": 0.0, "attention": 0.0, "head": 1.0, "rest": 0.5})
        );
        assert_eq!(parts["choice"], json!(0.5));
    }
}
