//! The thread that owns the batch: requests join and leave between two blocks, and each event goes to its request.
//!
//! Nothing here waits for a client: events go into bounded channels, and a request whose channel is full is ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Instant;

use cinderblock::{Batch, End, Error, Event, Interrupt, Request, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::metrics::Metrics;

/// Events of one HTTP request that may wait for its client, for each of its texts.
const EVENTS: usize = 1024;

/// An event of one of the texts of an HTTP request.
pub struct Update {
    pub index: usize,
    pub event: Event,
}

/// A text on its way to the engine.
struct Job {
    request: Request,
    text: Text,
}

/// A text that waits or runs.
struct Text {
    index: usize,
    sender: mpsc::Sender<Update>,
    interrupt: Interrupt,
    submitted: Instant,
    /// When the last token came.
    last: Option<Instant>,
    /// Its place in the queue, given back when it ends.
    _place: OwnedSemaphorePermit,
}

/// The texts of an HTTP request. If dropped, those that are under way end within a block.
pub struct Texts {
    pub updates: mpsc::Receiver<Update>,
    interrupts: Vec<Interrupt>,
}

impl Drop for Texts {
    fn drop(&mut self) {
        self.interrupts.iter().for_each(Interrupt::trigger);
    }
}

/// The way to the engine's thread.
pub struct Engine {
    jobs: Sender<Job>,
    places: Arc<Semaphore>,
    /// Places in all.
    limit: usize,
    cut: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

impl Engine {
    /// Starts the thread, with places for `limit` texts that run or wait. `ended` is called if it ends before its time.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        batch: Batch,
        limit: usize,
        metrics: Arc<Metrics>,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Engine> {
        let (jobs, receiver) = channel();
        let cut = Arc::new(AtomicBool::new(false));
        let (stop, counted) = (Arc::clone(&cut), Arc::clone(&metrics));
        let thread = std::thread::Builder::new().name("engine".into());
        let run = move || {
            let work = std::panic::AssertUnwindSafe(|| work(batch, &receiver, &stop, &counted));
            if std::panic::catch_unwind(work).is_err() {
                ended();
            }
        };
        thread.spawn(run).map_err(|error| Error::io_text(&error))?;
        Ok(Engine { jobs, places: Arc::new(Semaphore::new(limit)), limit, cut, metrics })
    }

    /// Texts that may run or wait at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether a text would find a place now.
    pub fn has_place(&self) -> bool {
        self.places.available_permits() > 0
    }

    /// A place for a request that has to wait before its texts can join; `None` if the queue has none.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        if place.is_none() {
            self.metrics.rejected.add(1);
        }
        place
    }

    /// Lets texts join; `None` if the queue has no place for all of them.
    pub fn submit(&self, requests: Vec<Request>) -> Option<Texts> {
        let count = requests.len();
        let places = u32::try_from(count).ok()?;
        let Ok(mut places) = Arc::clone(&self.places).try_acquire_many_owned(places) else {
            self.metrics.rejected.add(1);
            return None;
        };
        let (sender, updates) = mpsc::channel(EVENTS * count.max(1));
        let interrupts = requests.iter().map(|request| request.interrupt.clone()).collect();
        let texts = Texts { updates, interrupts };
        for (index, request) in requests.into_iter().enumerate() {
            let place = places.split(1)?;
            let text = Text {
                index,
                sender: sender.clone(),
                interrupt: request.interrupt.clone(),
                submitted: Instant::now(),
                last: None,
                _place: place,
            };
            self.metrics.prompt_tokens.add(request.prompt.len() as u64);
            // If the engine has ended, the channel closes with the text.
            let _ = self.jobs.send(Job { request, text });
        }
        Some(texts)
    }

    /// Ends all texts within a block, because the server ends.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

fn work(mut batch: Batch, jobs: &Receiver<Job>, cut: &AtomicBool, metrics: &Metrics) {
    let mut texts: HashMap<u64, Text> = HashMap::new();
    loop {
        // An idle engine waits here, and takes no time.
        let mut next = match texts.is_empty() {
            true => jobs.recv().map_err(|_| TryRecvError::Disconnected),
            false => jobs.try_recv(),
        };
        if texts.is_empty() && next.is_err() {
            return;
        }
        while let Ok(Job { request, text }) = next {
            match batch.submit(request) {
                Ok(id) => drop(texts.insert(id, text)),
                Err(error) => text.send(Event::Failed(error), metrics),
            }
            next = jobs.try_recv();
        }
        if cut.load(Ordering::SeqCst) {
            texts.values().for_each(|text| text.interrupt.trigger());
        }
        let started = Instant::now();
        let advanced = batch.advance(|id, event| {
            let last = !matches!(event, Event::Step(_));
            if let Some(text) = texts.get_mut(&id) {
                text.take(event, metrics);
            }
            if last {
                texts.remove(&id);
            }
        });
        metrics.advance.note(started.elapsed());
        metrics.advances.add(1);
        metrics.waiting.set(batch.waiting() as u64);
        metrics.running.set(batch.running() as u64);
        metrics.memory.set(batch.memory());
        let counts = batch.speculation_counts();
        metrics.passes.set(counts.passes);
        metrics.guessed_tokens.set(counts.guessed);
        let prefixes = batch.prefixes();
        metrics.prefix_hits.set(prefixes.hits);
        metrics.prefix_tokens.set(prefixes.tokens);
        metrics.prefix_bytes.set(prefixes.bytes);
        if let Err(error) = advanced {
            // What is wrong with a pass is wrong for all that share it. They leave at the next advance.
            for text in texts.values() {
                text.interrupt.trigger();
                text.send(Event::Failed(Error::new(error.kind(), error.detail())), metrics);
            }
        }
    }
}

impl Text {
    fn take(&mut self, event: Event, metrics: &Metrics) {
        match &event {
            Event::Step(step) if step.token.is_some() => {
                let now = Instant::now();
                match self.last.replace(now) {
                    None => metrics.first_token.note(now - self.submitted),
                    Some(last) => metrics.between_tokens.note(now - last),
                }
                metrics.generated_tokens.add(1);
            }
            Event::Ended(End::Caller, _) => metrics.cancelled.add(1),
            _ => {}
        }
        self.send(event, metrics);
    }

    fn send(&self, event: Event, metrics: &Metrics) {
        if let Err(error) = self.sender.try_send(Update { index: self.index, event }) {
            if matches!(error, mpsc::error::TrySendError::Full(_)) {
                metrics.slow.add(1);
            }
            self.interrupt.trigger();
        }
    }
}
