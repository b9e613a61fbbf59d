//! What the server counts, in Prometheus' text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the histograms' buckets, in seconds.
const BOUNDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// A number that any thread may change.
#[derive(Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Replaces it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations, counted by size.
#[derive(Default)]
pub struct Histogram {
    buckets: [Number; BOUNDS.len()],
    count: Number,
    nanoseconds: Number,
}

impl Histogram {
    /// Counts a duration.
    pub fn note(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].add(1);
        }
        self.count.add(1);
        self.nanoseconds.add(time.as_nanos() as u64);
    }
}

/// Everything that is counted.
#[derive(Default)]
pub struct Metrics {
    pub waiting: Number,
    pub running: Number,
    pub memory: Number,
    pub connections: Number,
    pub requests: Number,
    pub errors: Number,
    pub rejected: Number,
    pub cancelled: Number,
    pub slow: Number,
    pub prompt_tokens: Number,
    pub generated_tokens: Number,
    pub advances: Number,
    pub passes: Number,
    pub guessed_tokens: Number,
    pub prefix_hits: Number,
    pub prefix_tokens: Number,
    pub prefix_bytes: Number,
    pub first_token: Histogram,
    pub between_tokens: Histogram,
    pub advance: Histogram,
}

impl Metrics {
    /// The metrics as text.
    pub fn render(&self, resident: Option<u64>) -> String {
        let mut text = String::new();
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(
                text,
                "# HELP cinderblock_{name} {help}\n# TYPE cinderblock_{name} {kind}\ncinderblock_{name} {value}"
            );
        };
        for (name, help, number) in [
            ("sequences_waiting", "Sequences that wait for their turn", &self.waiting),
            ("sequences_running", "Sequences that are being read or written", &self.running),
            ("memory_bytes", "Bytes of weights, caches and buffers as --memory counts them", &self.memory),
            ("connections", "Open connections", &self.connections),
            ("prefix_cache_bytes", "Bytes of kept prefixes", &self.prefix_bytes),
        ] {
            one(name, "gauge", help, number.get());
        }
        if let Some(bytes) = resident {
            one("resident_bytes", "gauge", "Resident memory of the process", bytes);
        }
        for (name, help, number) in [
            ("requests_total", "HTTP requests", &self.requests),
            ("errors_total", "HTTP requests that were answered by an error", &self.errors),
            ("rejected_total", "Requests that found the queue full", &self.rejected),
            ("cancelled_total", "Sequences whose client left or was cut off", &self.cancelled),
            ("slow_readers_total", "Sequences that ended because their client read too slowly", &self.slow),
            ("prompt_tokens_total", "Tokens of prompts", &self.prompt_tokens),
            ("generated_tokens_total", "Tokens that were generated", &self.generated_tokens),
            ("advances_total", "Rounds of the batch: one block of every sequence", &self.advances),
            ("passes_total", "Passes that computed logits, for all sequences together", &self.passes),
            ("guessed_tokens_total", "Tokens that were guessed and computed", &self.guessed_tokens),
            ("prefix_cache_hits_total", "Prompts of which a prefix was not read again", &self.prefix_hits),
            ("prefix_cache_tokens_total", "Tokens of prompts that were not read again", &self.prefix_tokens),
        ] {
            one(name, "counter", help, number.get());
        }
        for (name, help, histogram) in [
            ("first_token_seconds", "Time from a request to its first token", &self.first_token),
            ("between_tokens_seconds", "Time between two tokens of a sequence", &self.between_tokens),
            ("advance_seconds", "Time of a round of the batch", &self.advance),
        ] {
            let _ = writeln!(text, "# HELP cinderblock_{name} {help}\n# TYPE cinderblock_{name} histogram");
            let mut below = 0;
            for (bound, bucket) in BOUNDS.iter().zip(&histogram.buckets) {
                below += bucket.get();
                let _ = writeln!(text, "cinderblock_{name}_bucket{{le=\"{bound}\"}} {below}");
            }
            let (count, sum) = (histogram.count.get(), histogram.nanoseconds.get() as f64 / 1e9);
            let _ = writeln!(
                text,
                "cinderblock_{name}_bucket{{le=\"+Inf\"}} {count}\ncinderblock_{name}_sum {sum}\ncinderblock_{name}_count {count}"
            );
        }
        text
    }
}
