//! The time that the phases of a team's passes take, by the source file that started them.

use std::time::Duration;

/// Time of phases, by the file that started them.
#[derive(Default)]
pub(super) struct Phases(Vec<(&'static str, Duration)>);

impl Phases {
    /// Adds the time of a phase.
    pub(super) fn add(&mut self, file: &'static str, time: Duration) {
        match self.0.iter_mut().find(|(known, _)| *known == file) {
            Some((_, total)) => *total += time,
            None => self.0.push((file, time)),
        }
    }

    /// The times, which begin anew.
    pub(super) fn take(&mut self) -> Vec<(&'static str, Duration)> {
        std::mem::take(&mut self.0)
    }
}
