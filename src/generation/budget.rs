//! The memory of a batch: what counts, and what there is room for.

use std::sync::{Arc, Weak};

use crate::error::{Error, ErrorKind, Result};
use crate::session::Sequence;

/// Bytes that a batch may take, and those that it takes beside the texts that run.
pub(crate) struct Budget {
    limit: Option<u64>,
    /// Of weights and shared buffers.
    fixed: u64,
    /// Of what a text may take beside its sequence.
    text: u64,
    /// Beginnings that are still shared, and the bytes of each.
    starts: Vec<(Weak<Sequence>, u64)>,
}

impl Budget {
    /// A budget without beginnings; `None` is no limit.
    pub(crate) fn new(limit: Option<u64>, fixed: u64, text: u64) -> Budget {
        Budget { limit, fixed, text, starts: Vec::new() }
    }

    /// Beginnings that are still shared.
    pub(crate) fn shared(&self) -> Vec<Arc<Sequence>> {
        self.starts.iter().filter_map(|(start, _)| start.upgrade()).collect()
    }

    /// Bytes of all beginnings that are still shared.
    fn starts(&self) -> impl Iterator<Item = u64> {
        self.starts.iter().filter(|(start, _)| start.strong_count() > 0).map(|(_, bytes)| *bytes)
    }

    /// Bytes with texts that run, which take `running`.
    pub(crate) fn used(&self, running: u64) -> u64 {
        self.starts().fold(self.fixed, u64::saturating_add).saturating_add(running)
    }

    /// Whether bytes are more than there may be.
    pub(crate) fn is_exceeded(&self, bytes: u64) -> bool {
        self.limit.is_some_and(|limit| bytes > limit)
    }

    /// Makes sure that a text can run where nothing else does.
    ///
    /// # Errors
    /// If it cannot.
    pub(crate) fn check_text(&self, bytes: u64) -> Result<()> {
        self.check(self.fixed.saturating_add(bytes), "this text alone")
    }

    /// Makes sure that there is room for another beginning, beside texts that take `running`, and for a text that
    /// follows any beginning when these have ended: without that, beginnings could keep each other's texts out.
    ///
    /// # Errors
    /// If there is none now.
    pub(crate) fn check_start(&self, running: u64, bytes: u64) -> Result<()> {
        let text = self.starts().fold(bytes, u64::max).saturating_add(self.text);
        self.check(self.used(running.max(text)).saturating_add(bytes), "this beginning")
    }

    fn check(&self, needed: u64, what: &str) -> Result<()> {
        match self.limit {
            Some(limit) if needed > limit => {
                let detail =
                    format!("memory: found a limit of {limit} bytes, expected at least {needed} for {what}");
                Err(Error::new(ErrorKind::Resource, detail))
            }
            _ => Ok(()),
        }
    }

    /// Counts a beginning for as long as it is shared.
    pub(crate) fn share(&mut self, start: &Arc<Sequence>, bytes: u64) {
        self.starts.retain(|(start, _)| start.strong_count() > 0);
        self.starts.push((Arc::downgrade(start), bytes));
    }
}
