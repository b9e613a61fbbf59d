//! Arguments that say how tokens are chosen.

use cinderblock::SamplerOptions;

/// How tokens are chosen. What is not given has a default, or what a loaded session has.
#[derive(clap::Args)]
pub struct SamplingArguments {
    /// Temperature; 0 takes the most likely token [default: 0.8]
    #[arg(long, visible_alias = "temperature", value_name = "T")]
    temp: Option<f32>,

    /// Keep the K most likely tokens; 0 keeps all [default: 40]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Keep the most likely tokens that together reach probability P [default: 0.95]
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,

    /// Keep tokens at least P times as probable as the most likely one [default: 0.05]
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,

    /// Make recent tokens less likely; 1 does not [default: 1]
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,

    /// How many of the last tokens are recent [default: 64]
    #[arg(long, value_name = "N")]
    repetition_window: Option<usize>,

    /// Add to a token's logit; -inf forbids it; may be repeated
    #[arg(long, value_name = "ID=BIAS", value_parser = parse_bias)]
    logit_bias: Vec<(u32, f32)>,

    /// Seed; the same one gives the same text [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parts = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parts.ok_or_else(|| "expected a token id, =, and a number or -inf".to_string())
}

/// Some seed.
fn clock() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    time.map_or(0, |time| time.as_nanos() as u64) % 1_000_000
}

impl SamplingArguments {
    /// Whether anything was given.
    pub fn is_given(&self) -> bool {
        self.temp.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.min_p.is_some()
            || self.repetition_penalty.is_some()
            || self.repetition_window.is_some()
            || !self.logit_bias.is_empty()
            || self.seed.is_some()
    }

    /// The options where nothing is given but a seed.
    pub fn defaults(seed: u64) -> SamplerOptions {
        SamplerOptions { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, seed, ..Default::default() }
    }

    /// The options of a new text.
    pub fn options(&self) -> SamplerOptions {
        self.over(&Self::defaults(clock()))
    }

    /// The options with what was given.
    pub fn over(&self, options: &SamplerOptions) -> SamplerOptions {
        let biased = if self.logit_bias.is_empty() { &options.logit_bias } else { &self.logit_bias };
        SamplerOptions {
            temperature: self.temp.unwrap_or(options.temperature),
            top_k: self.top_k.unwrap_or(options.top_k),
            top_p: self.top_p.unwrap_or(options.top_p),
            min_p: self.min_p.unwrap_or(options.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(options.repetition_penalty),
            repetition_window: self.repetition_window.unwrap_or(options.repetition_window),
            logit_bias: biased.clone(),
            seed: self.seed.unwrap_or(options.seed),
        }
    }
}
