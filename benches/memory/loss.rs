//! Loss against position: a rolling cache with and without pinned blocks, one that never rolls, and fresh windows.

use std::path::Path;

use cinderblock::{Error, Result, Runtime, SessionOptions, negative_log_likelihood};

use crate::chart::{Line, chart};
use crate::mean;

/// Tokens of the long text: the ids, as often as needed.
const LONG: usize = 500_000;
/// Blocks of the ring and of a fresh window: those of the contexts that the demo model was trained with.
const WINDOW: usize = 256;
const SINKS: usize = 4;
/// Texts that begin at different places, and their blocks, for the positions before and at the window.
const STARTS: usize = 64;
const SHORT: usize = 1024;

fn options(cache_blocks: usize, sink_blocks: usize) -> SessionOptions {
    SessionOptions { cache_blocks: Some(cache_blocks), sink_blocks, ..Default::default() }
}

/// Mean loss of each block but the first.
fn losses(runtime: &Runtime, options: &SessionOptions, text: &[u32]) -> Result<Vec<f64>> {
    let mut losses = Vec::new();
    runtime.scorer(options)?.score(text, |token, logits| {
        losses.push(negative_log_likelihood(logits, token));
        Ok(())
    })?;
    let block = runtime.model().config().block_length;
    Ok(losses.chunks_exact(block).map(|block| mean(block.iter().copied())).collect())
}

/// The same of windows that start anew and overlap by half; only what the window before has not scored counts.
fn fresh(runtime: &Runtime, text: &[u32]) -> Result<Vec<f64>> {
    let half = WINDOW / 2 * runtime.model().config().block_length;
    let mut all = Vec::new();
    for start in (0..text.len()).step_by(half) {
        let window = &text[start..(start + 2 * half).min(text.len())];
        if start > 0 && window.len() <= half {
            break;
        }
        let scored = losses(runtime, &options(WINDOW, 0), window)?;
        all.extend(&scored[if start == 0 { 0 } else { WINDOW / 2 - 1 }..]);
    }
    Ok(all)
}

/// Mean of texts at each position.
fn average(texts: &[Vec<f64>]) -> Vec<f64> {
    (0..texts[0].len()).map(|at| mean(texts.iter().map(|losses| losses[at]))).collect()
}

/// Means of stretches whose length is a sixth of what comes before; x is the middle in blocks.
fn stretches(losses: &[f64]) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    let (mut start, mut length) = (0, 1);
    while start < losses.len() {
        let end = (start + length).min(losses.len());
        points.push(((start + end) as f64 / 2.0 + 0.5, mean(losses[start..end].iter().copied())));
        length = (end / 6).max(1);
        start = end;
    }
    points
}

pub fn run(runtime: &Runtime, ids: &[u32], file: &Path) -> Result<()> {
    let block = runtime.model().config().block_length;
    let text: Vec<u32> = ids.iter().copied().cycle().take(LONG).collect();
    let period = ids.len() / block;
    let variants =
        [("ring of 256 blocks, 4 pinned", WINDOW, SINKS), ("ring of 256 blocks, none pinned", WINDOW, 0)];
    let reference = fresh(runtime, &text)?;
    let total = mean(reference.iter().copied());
    println!("{} tokens, the ids repeated every {} of them", text.len(), ids.len());
    println!("fresh windows of {WINDOW} blocks that overlap by half: {total:.4} nats a token");
    let mut lines = Vec::new();
    for (name, cache_blocks, sinks) in variants {
        let long = losses(runtime, &options(cache_blocks, sinks), &text)?;
        let all = mean(long.iter().copied());
        println!("{name}: {all:.4}, {:+.2} %", 100.0 * (all / total - 1.0));
        // The same text again and again: whatever differs is the position.
        let rounds: Vec<f64> =
            long[period..].chunks_exact(period).map(|round| mean(round.iter().copied())).collect();
        let rounds: Vec<String> = rounds.iter().map(|round| format!("{round:.5}")).collect();
        println!("  each time the ids come again: {}", rounds.join(" "));
        let mut points = stretches(&average(&short(runtime, ids, cache_blocks, sinks)?));
        let far = long[period..].chunks_exact(period).enumerate();
        points.extend(
            far.map(|(i, round)| (((i + 1) * period + period / 2) as f64, mean(round.iter().copied()))),
        );
        lines.push(Line { name, points });
    }
    let whole = average(&short(runtime, ids, SHORT, 0)?);
    println!("a cache that never rolls, blocks 768 to 1024: {:.4}", mean(whole[767..].iter().copied()));
    lines.push(Line { name: "no limit", points: stretches(&whole) });
    let stationary = mean(reference[period..].iter().copied());
    let ends = vec![(WINDOW as f64, stationary), ((LONG / block) as f64, stationary)];
    lines.push(Line { name: "fresh windows that overlap by half", points: ends });
    for line in &lines {
        let near = |block: f64| line.points.iter().rev().find(|point| point.0 <= block);
        let places = [8.0, 64.0, 250.0, 400.0, 1000.0, 120_000.0].into_iter();
        let values = places.filter_map(|block| Some(format!("{block}: {:.3}", near(block)?.1)));
        println!("near block, {}: {}", line.name, values.collect::<Vec<_>>().join(", "));
    }
    let svg = chart("block of the text", "loss, nats a token", WINDOW as f64, &lines);
    std::fs::write(file, svg).map_err(|error| Error::io(file, &error))
}

/// Texts that begin at places spread over all ids.
fn short(runtime: &Runtime, ids: &[u32], cache_blocks: usize, sinks: usize) -> Result<Vec<Vec<f64>>> {
    let length = SHORT * runtime.model().config().block_length;
    let starts = (0..STARTS).map(|start| start * ids.len() / STARTS);
    starts
        .map(|start| {
            let text: Vec<u32> = ids.iter().copied().cycle().skip(start).take(length).collect();
            losses(runtime, &options(cache_blocks, sinks), &text)
        })
        .collect()
}
