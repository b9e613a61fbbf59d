//! How long a request to stop takes while a long prompt is read and while text is written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cinderblock::{ErrorKind, Generator, Result, Runtime, SessionOptions};

use crate::median;

const REQUESTS: u64 = 40;
const PROMPT: usize = 2048;

pub fn run(runtime: &Runtime) -> Result<()> {
    let prompt: Vec<u32> =
        (0..PROMPT).map(|i| (i * 97 % runtime.model().config().vocabulary) as u32).collect();
    measure(runtime, "reading", |generator| generator.append(&prompt))?;
    measure(runtime, "writing", |generator| {
        loop {
            generator.next_token()?;
        }
    })
}

/// Interrupts `work` at times that are spread over about as long as it takes, or a second.
fn measure(runtime: &Runtime, name: &str, mut work: impl FnMut(&mut Generator) -> Result<()>) -> Result<()> {
    let mut generator = runtime.generator(&SessionOptions::default())?;
    // So that the first request does not wait for the file's pages.
    generator.append(&[1, 2, 3, 4])?;
    generator.next_token()?;
    let started = Instant::now();
    let asked = AtomicU64::new(0);
    let mut latencies = Vec::new();
    let mut longest = Duration::from_millis(300);
    for request in 0..REQUESTS {
        generator.clear()?;
        generator.append(&[1, 2, 3, 4])?;
        let interrupt = generator.interrupt().clone();
        let delay = longest.mul_f64((request as f64 * 0.618).fract());
        let begun = Instant::now();
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(delay);
                asked.store(started.elapsed().as_micros() as u64, Ordering::SeqCst);
                interrupt.trigger();
            });
            let result = work(&mut generator);
            (result, started.elapsed().as_micros() as u64)
        });
        match result {
            (Err(error), ended) if error.kind() == ErrorKind::Interrupted => {
                latencies.push((ended - asked.load(Ordering::SeqCst)) as f64 / 1000.0);
            }
            (Err(error), _) => return Err(error),
            // It was done before the request came.
            (Ok(()), _) => longest = longest.min(begun.elapsed().mul_f64(0.9)),
        }
    }
    let most = latencies.iter().copied().fold(0.0, f64::max);
    println!(
        "{name}: {} requests, stopped after {:.1} ms in the middle, {most:.1} ms at most",
        latencies.len(),
        median(&latencies)
    );
    Ok(())
}
