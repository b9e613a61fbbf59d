//! What the process itself uses, as far as the operating system tells, and how fast memory is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cinderblock::Team;

/// Peak resident memory in bytes; `None` where it is not known.
pub fn peak() -> Option<u64> {
    of_status("VmHWM:")
}

/// Resident memory in bytes; `None` where it is not known.
#[cfg(feature = "serve")]
pub fn resident() -> Option<u64> {
    of_status("VmRSS:")
}

fn of_status(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Bytes of the buffer that is read: more than any cache holds.
const BUFFER: usize = 512 << 20;

/// Bytes a second that the team reads from memory by summing it: the median of a few rounds.
pub fn read_bandwidth(team: &Team) -> f64 {
    let words = vec![1u64; BUFFER / 8];
    let mut rates: Vec<f64> = (0..5)
        .map(|_| {
            let started = Instant::now();
            let total = AtomicU64::new(0);
            team.region(|region| {
                let piece = words.len().div_ceil(16 * region.threads());
                region.run(words.len().div_ceil(piece), |index| {
                    let words = &words[index * piece..words.len().min((index + 1) * piece)];
                    total.fetch_add(
                        words.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word)),
                        Ordering::Relaxed,
                    );
                });
            });
            assert_eq!(total.into_inner(), words.len() as u64);
            BUFFER as f64 / started.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Bytes of memory that are free for new work; `None` where it is not known.
pub fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes * 1024)
}
