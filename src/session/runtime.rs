//! A model and the threads that run it.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::model::Model;
use crate::threads::Team;

/// A model and a team of threads: what everything that runs the model shares. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime {
    model: Arc<Model>,
    team: Arc<Team>,
}

impl Runtime {
    /// Opens a model file, and starts one thread for each performance core that affinity and quota leave
    /// ([`crate::Processors::threads`]).
    ///
    /// # Errors
    /// As [`Model::open`] and [`Team::new`].
    pub fn open(path: impl AsRef<Path>) -> Result<Runtime> {
        Self::new(Model::open(path)?, 0)
    }

    /// Runs a model on a number of threads; 0 is one for each performance core that affinity and quota
    /// leave.
    ///
    /// # Errors
    /// As [`Team::new`].
    pub fn new(model: impl Into<Arc<Model>>, threads: usize) -> Result<Runtime> {
        Ok(Self::with_team(model, Team::new(threads)?))
    }

    /// Runs a model on threads that may run other models too, one at a time.
    pub fn with_team(model: impl Into<Arc<Model>>, team: impl Into<Arc<Team>>) -> Runtime {
        Runtime { model: model.into(), team: team.into() }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The threads.
    pub fn team(&self) -> &Arc<Team> {
        &self.team
    }
}
