//! What the process itself uses, as far as the operating system tells, and how fast memory is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cinderblock::{Error, ErrorKind, Result, Team};

/// The peak before the last buffer of [`read_bandwidth`].
static EARLIER: AtomicU64 = AtomicU64::new(0);

/// Peak resident memory in bytes, without the buffers of [`read_bandwidth`] where the system can forget them; `None`
/// where it is not known.
pub fn peak() -> Option<u64> {
    Some(of_status("VmHWM:")?.max(EARLIER.load(Ordering::Relaxed)))
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

/// Bytes a second that the team reads from memory by summing it: the median of a few rounds. The buffer takes at most a
/// quarter of what is free.
///
/// # Errors
/// If there is no memory for it.
pub fn read_bandwidth(team: &Team) -> Result<f64> {
    EARLIER.fetch_max(peak().unwrap_or(0), Ordering::Relaxed);
    let bytes = available().map_or(BUFFER, |free| BUFFER.min(free as usize / 4)).max(1 << 20);
    let mut words: Vec<u64> = Vec::new();
    words.try_reserve_exact(bytes / 8).map_err(|_| {
        let detail = format!("{bytes} bytes to measure the speed of memory, which are not free");
        Error::new(ErrorKind::Resource, detail)
    })?;
    words.resize(bytes / 8, 1);
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
            (8 * words.len()) as f64 / started.elapsed().as_secs_f64()
        })
        .collect();
    drop(words);
    // Lets Linux count the peak from here on.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    rates.sort_by(f64::total_cmp);
    Ok(rates[rates.len() / 2])
}

/// Bytes of memory that are free for new work; `None` where it is not known.
pub fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes * 1024)
}
