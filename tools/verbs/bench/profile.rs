//! The time of a pass by part and by thread, and the roof of the machine over it.

use std::time::{Duration, Instant};

use cinderblock::unstable::kernels::{Activations, Epilogue, Pass, Product, Term, multiply};
use cinderblock::unstable::quant::{WeightType, Weights};
use cinderblock::unstable::threads::{Phase, measure_phases, take_phases};
use cinderblock::{Model, Result, Team};
use serde_json::{Value as Json, json};

/// The time of one decoder's passes.
#[derive(Default)]
struct Passes {
    phases: Vec<Phase>,
    /// The rest: what the leader does between phases.
    between: Duration,
}

/// The time by decoder and phase, summed over rounds.
#[derive(Default)]
pub struct Profile {
    block_decoder: Passes,
    token_decoder: Passes,
    /// All of it, the choice of tokens included.
    total: Duration,
    rounds: u32,
}

/// Whose time it is.
#[derive(Clone, Copy)]
pub enum Decoder {
    Block,
    Token,
}

/// The part of a pass that a phase belongs to.
fn part(phase: &str) -> &'static str {
    match phase {
        "attention" => "attention",
        "norms and quantization" => "norms",
        "head" => "head",
        "other" => "rest",
        _ => "products",
    }
}

/// The time that the threads of a phase waited for its last, on average.
fn waiting(phase: &Phase) -> Duration {
    let busy: Duration = phase.busy.iter().sum();
    phase.time.saturating_sub(busy / phase.busy.len().max(1) as u32)
}

impl Passes {
    /// Adds a pass that took `total` in all, with the phases it had.
    fn add(&mut self, phases: Vec<Phase>, total: Duration) {
        let in_phases: Duration = phases.iter().map(|phase| phase.time).sum();
        self.between += total.saturating_sub(in_phases);
        for phase in phases {
            match self.phases.iter_mut().find(|known| known.name == phase.name) {
                None => self.phases.push(phase),
                Some(known) => {
                    known.time += phase.time;
                    known.busy.iter_mut().zip(phase.busy).for_each(|(known, busy)| *known += busy);
                }
            }
        }
    }

    fn total(&self) -> Duration {
        self.between + self.phases.iter().map(|phase| phase.time).sum::<Duration>()
    }

    /// Seconds of a round.
    fn json(&self, rounds: u32) -> Json {
        let seconds = |time: Duration| (time / rounds).as_secs_f64();
        let of_part = |name| -> Duration {
            self.phases.iter().filter(|phase| part(phase.name) == name).map(|phase| phase.time).sum()
        };
        let phases = self.phases.iter().map(|phase| {
            let (time, waiting) = (seconds(phase.time), seconds(waiting(phase)));
            json!({ "phase": phase.name, "seconds": time, "waiting": waiting })
        });
        json!({
            "products": seconds(of_part("products")),
            "attention": seconds(of_part("attention")),
            "norms": seconds(of_part("norms")),
            "head": seconds(of_part("head")),
            "rest": seconds(self.between + of_part("rest")),
            "waiting": seconds(self.phases.iter().map(waiting).sum()),
            "phases": phases.collect::<Json>(),
        })
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
        let passes = match decoder {
            Decoder::Block => &mut profile.block_decoder,
            Decoder::Token => &mut profile.token_decoder,
        };
        passes.add(take_phases(team), started.elapsed());
        Ok(result)
    }

    /// Ends a round: `seconds` is the time of all of it.
    pub fn end_round(&mut self, seconds: f64) {
        self.rounds += 1;
        self.total += Duration::from_secs_f64(seconds);
    }

    /// The time of choosing tokens.
    fn choice(&self) -> Duration {
        self.total.saturating_sub(self.block_decoder.total() + self.token_decoder.total())
    }

    /// The decoders that have run.
    fn decoders(&self) -> impl Iterator<Item = (&'static str, &Passes)> {
        let decoders = [("block decoder", &self.block_decoder), ("token decoder", &self.token_decoder)];
        decoders.into_iter().filter(|(_, passes)| !passes.phases.is_empty())
    }

    /// The time of each thread's work in the phases.
    fn threads(&self) -> Vec<Duration> {
        let mut threads = Vec::new();
        for phase in self.decoders().flat_map(|(_, passes)| &passes.phases) {
            threads.resize(phase.busy.len(), Duration::ZERO);
            threads.iter_mut().zip(&phase.busy).for_each(|(sum, busy)| *sum += *busy);
        }
        threads
    }

    /// Seconds of a round, the mean of all.
    pub fn json(&self) -> Json {
        let rounds = self.rounds.max(1);
        let seconds = |time: Duration| (time / rounds).as_secs_f64();
        json!({
            "block_decoder": self.block_decoder.json(rounds),
            "token_decoder": self.token_decoder.json(rounds),
            "choice": seconds(self.choice()),
            "threads": self.threads().into_iter().map(seconds).collect::<Json>(),
        })
    }

    /// A table for people: a line a phase, and how long each thread worked.
    pub fn table(&self) -> String {
        let total = self.total.as_secs_f64();
        let line = |of: &str, name: &str, time: Duration, waiting: Duration| {
            let [time, waiting] = [time, waiting].map(|time| time.as_secs_f64());
            let milliseconds = 1e3 * time / f64::from(self.rounds.max(1));
            let waiting = if time > 0.0 { 100.0 * waiting / time } else { 0.0 };
            format!(
                "  {of:14} {name:27} {milliseconds:>9.2} {:>5.1}% {waiting:>6.1}%\n",
                100.0 * time / total
            )
        };
        let mut text =
            format!("  {:14} {:27} {:>9} {:>6} {:>7}\n", "part", "phase", "ms", "share", "waiting");
        for (name, passes) in self.decoders() {
            for phase in &passes.phases {
                text += &line(name, phase.name, phase.time, waiting(phase));
            }
            text += &line(name, "between phases", passes.between, Duration::ZERO);
        }
        text += &line("choice", "", self.choice(), Duration::ZERO);
        let share = |time: Duration| format!("{:.0}%", 100.0 * time.as_secs_f64() / total);
        let threads: Vec<String> = self.threads().into_iter().map(share).collect();
        text + &format!("  threads at work {}\n", threads.join(", "))
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
        let phase = |name, time, busy: [u32; 2]| Phase {
            name,
            time: time * second,
            busy: busy.map(|busy| busy * second).to_vec(),
        };
        let mut profile = Profile::default();
        profile.block_decoder.add(vec![phase("up", 2, [2, 1])], 3 * second);
        profile
            .block_decoder
            .add(vec![phase("norms and quantization", 1, [1, 1]), phase("up", 2, [2, 1])], 4 * second);
        profile.token_decoder.add(vec![phase("head", 1, [0, 1])], second);
        profile.end_round(9.0);
        let up = json!({"phase": "up", "seconds": 4.0, "waiting": 1.0});
        let norms = json!({"phase": "norms and quantization", "seconds": 1.0, "waiting": 0.0});
        let head = json!({"phase": "head", "seconds": 1.0, "waiting": 0.5});
        assert_eq!(
            profile.json(),
            json!({
                "block_decoder": {
                    "products": 4.0, "attention": 0.0, "norms": 1.0, "head": 0.0, "rest": 2.0, "waiting": 1.0,
                    "phases": [up, norms],
                },
                "token_decoder": {
                    "products": 0.0, "attention": 0.0, "norms": 0.0, "head": 1.0, "rest": 0.0, "waiting": 0.5,
                    "phases": [head],
                },
                "choice": 1.0,
                "threads": [5.0, 4.0],
            })
        );
        let table = profile.table();
        let up = table.lines().find(|line| line.contains(" up ")).unwrap();
        assert_eq!(
            up.split_whitespace().collect::<Vec<_>>(),
            ["block", "decoder", "up", "4000.00", "44.4%", "25.0%"]
        );
        assert!(table.ends_with("threads at work 56%, 44%\n"), "{table}");
    }
}
