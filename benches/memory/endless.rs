//! Generates without end through a small ring and watches memory, speed and numbers.
//!
//! A folder holds the session and the log, so that the work can be done in several runs: each goes on where the last
//! one was saved.

use std::fs;
use std::path::Path;
use std::time::Instant;

use cinderblock::{Error, Generator, Result, Runtime, SamplerOptions, SessionOptions, Snapshot};

use crate::median;

const CACHE_BLOCKS: usize = 64;
const SINK_BLOCKS: usize = 4;
/// Tokens of a line in the log.
const PIECE: usize = 10_000;
/// Tokens and turns of the comparison between an old and a new session.
const TURN: usize = 4_000;
const TURNS: usize = 9;

/// A line of the log.
struct Piece {
    tokens: u64,
    seconds: f64,
    resident: u64,
}

fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * 4096)
}

fn sampling() -> SamplerOptions {
    SamplerOptions { temperature: 0.8, top_p: 0.95, seed: 1, ..SamplerOptions::plain() }
}

fn start(runtime: &Runtime) -> Result<Generator> {
    let options =
        SessionOptions { cache_blocks: Some(CACHE_BLOCKS), sink_blocks: SINK_BLOCKS, ..Default::default() };
    let mut generator = runtime.generator(&options)?;
    generator.set_sampler(sampling())?;
    generator.append(&[2, 3, 4, 5])?;
    Ok(generator)
}

/// Seconds for so many tokens. A logit that is not finite is an error.
fn generate(generator: &mut Generator, tokens: usize) -> Result<f64> {
    let started = Instant::now();
    for _ in 0..tokens {
        generator.next_token()?;
    }
    Ok(started.elapsed().as_secs_f64())
}

fn read_log(path: &Path) -> Vec<Piece> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
    let piece = |line: &str| {
        let mut fields = line.split(' ');
        Some(Piece {
            tokens: number(fields.next())? as u64,
            seconds: number(fields.next())?,
            resident: number(fields.next())? as u64,
        })
    };
    text.lines().filter_map(piece).collect()
}

pub fn run(runtime: &Runtime, folder: &Path, tokens: usize) -> Result<()> {
    let io = |error: std::io::Error| Error::io(folder, &error);
    fs::create_dir_all(folder).map_err(io)?;
    let (session, log) = (folder.join("session"), folder.join("log"));
    let mut generator = match session.exists() {
        true => runtime.load(&Snapshot::read(runtime.model(), &session)?)?,
        false => start(runtime)?,
    };
    let mut pieces = read_log(&log);
    // So that buffers have their size before the first line.
    generate(&mut generator, 2 * PIECE)?;
    for _ in 0..tokens / PIECE {
        let seconds = generate(&mut generator, PIECE)?;
        pieces.push(Piece { tokens: generator.length(), seconds, resident: resident() });
        let lines =
            pieces.iter().map(|piece| format!("{} {} {}\n", piece.tokens, piece.seconds, piece.resident));
        fs::write(&log, lines.collect::<String>()).map_err(io)?;
    }
    generator.save()?.write(&session)?;
    report(&pieces);

    let mut new = start(runtime)?;
    generate(&mut new, TURN)?;
    let (mut old_seconds, mut new_seconds) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        old_seconds.push(generate(&mut generator, TURN)?);
        new_seconds.push(generate(&mut new, TURN)?);
    }
    println!(
        "in turns, the old session is {:.3} times as fast as a new one",
        median(&new_seconds) / median(&old_seconds)
    );
    Ok(())
}

fn report(pieces: &[Piece]) {
    let hundredth = (pieces.len() / 100).max(1);
    let (first, last) =
        (&pieces[..hundredth.min(pieces.len())], &pieces[pieces.len().saturating_sub(hundredth)..]);
    let rate = |pieces: &[Piece]| {
        median(&pieces.iter().map(|piece| PIECE as f64 / piece.seconds).collect::<Vec<_>>())
    };
    let memory = |pieces: &[Piece]| pieces.iter().map(|piece| piece.resident).max().unwrap_or(0) as f64 / 1e6;
    let tenth = pieces.len().div_ceil(10).min(pieces.len());
    println!(
        "{} tokens, {} measured, every logit finite",
        pieces.last().map_or(0, |piece| piece.tokens),
        pieces.len() * PIECE
    );
    println!("resident memory: first 1 % {:.2} MB, last 1 % {:.2} MB", memory(first), memory(last));
    println!(
        "tokens a second, median: all {:.0}; first 10 % {:.0}, last 10 % {:.0}",
        rate(pieces),
        rate(&pieces[..tenth]),
        rate(&pieces[pieces.len() - tenth..])
    );
}
