//! Arguments that say how tokens are chosen.

use std::time::{SystemTime, UNIX_EPOCH};

use cinderblock::SamplerOptions;

use crate::arguments::parse_count;

/// How tokens are chosen. An option that is not given has its default, or the value of a loaded session.
#[derive(Clone, clap::Args)]
pub struct SamplingArguments {
    /// Temperature; 0 takes the most likely token [default: 0.8]
    #[arg(long, visible_alias = "temperature", value_name = "T", allow_negative_numbers = true)]
    temp: Option<f32>,

    /// Keep the K most likely tokens; 0 or -1 keeps all [default: 40]
    #[arg(long, value_name = "K", value_parser = parse_top_k, allow_negative_numbers = true)]
    top_k: Option<usize>,

    /// Keep the most likely tokens that together reach probability P [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,

    /// Keep tokens at least P times as probable as the most likely one [default: 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,

    /// Make recent tokens less likely; 1 has no effect [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,

    /// Number of last tokens that count as recent; -1 is all [default: 64]
    #[arg(long, value_name = "N", value_parser = parse_window, allow_negative_numbers = true)]
    repetition_window: Option<usize>,

    /// Add BIAS to the logit of token ID; -inf forbids it; may be repeated
    #[arg(long, value_name = "ID=BIAS", value_parser = parse_bias)]
    logit_bias: Vec<(u32, f32)>,

    /// Seed: the same seed gives the same text; -1 picks one [default: -1]
    #[arg(long, value_name = "N", value_parser = parse_seed, allow_negative_numbers = true)]
    seed: Option<u64>,
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parts = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parts.ok_or_else(|| "expected a token id, =, and a number or -inf".to_string())
}

/// All candidates are 0 for the library.
fn parse_top_k(text: &str) -> Result<usize, String> {
    parse_count(text, "all").map(|count| if count == usize::MAX { 0 } else { count })
}

fn parse_window(text: &str) -> Result<usize, String> {
    parse_count(text, "all")
}

fn parse_seed(text: &str) -> Result<u64, String> {
    if text == "-1" {
        return Ok(clock());
    }
    text.parse()
        .map_err(|_| "expected a number from 0 to 18446744073709551615, or -1 for any seed".to_string())
}

/// Some seed, short enough to be typed again.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64) % 1_000_000
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
        SamplerOptions { seed, ..Default::default() }
    }

    /// The options of a new text.
    pub fn options(&self) -> SamplerOptions {
        self.over(&Self::defaults(clock()))
    }

    /// `options`, with what was given in their place.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_is_every_token_and_any_seed() {
        assert_eq!((parse_top_k("-1"), parse_top_k("7")), (Ok(0), Ok(7)));
        assert_eq!(parse_window("-1"), Ok(usize::MAX));
        assert!(parse_seed("-1").is_ok_and(|seed| seed < 1_000_000));
        assert_eq!(parse_seed("18446744073709551615"), Ok(u64::MAX));
        assert!(parse_seed("-2").is_err() && parse_seed("18446744073709551616").is_err());
    }
}
