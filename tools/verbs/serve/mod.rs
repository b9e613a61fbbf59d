//! `serve`: an HTTP server whose requests share the passes of one batch.
//!
//! One thread runs HTTP (`connection`, `routes`), another owns the batch (`engine`). A request becomes texts
//! (`generation`), whose events come back through a bounded channel and become JSON (`answer`), after what is repeated of
//! the prompt (`echo`).

mod answer;
mod connection;
mod echo;
mod engine;
mod generation;
mod guard;
mod listen;
mod metrics;
mod openapi;
mod page;
mod parameters;
mod problem;
mod routes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cinderblock::{Batch, Error, ErrorKind, Model, Request, Result, SessionOptions, Tokenizer};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::arguments::{
    BatchArguments, CacheArguments, ModelArguments, SpeculateArgument, parse_bytes, parse_sequences,
};
use crate::constraint::Constraints;
use crate::{output, signals};
use connection::Listener;
use engine::Engine;
use generation::Limits;
use guard::Guard;
use metrics::Metrics;

const EXAMPLES: &str = "\
Examples:
  cinderblock serve
  cinderblock serve -m model.gguf --port 8080 --memory 8GB
  cinderblock serve --host 0.0.0.0 --api-key-file keys.txt
  cinderblock serve --socket /run/cinderblock.sock";

/// Serve a model over HTTP: an OpenAI-compatible interface, and a page
///
/// The page is at /, the interface under /v1 (completions, chat/completions, models), with /tokenize, /detokenize,
/// /score, /health, /ready, /metrics and /openapi.json beside it. A request with a seed gets the text that `run` gives
/// with that seed. The address is printed when the server is ready. SIGTERM or Ctrl-C ends it when the answers under way
/// have ended; a second one ends it at once.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    /// The name of the model in the interface [default: that of the file]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Listen on this address; any other than a loopback address needs --api-key-file
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: std::net::IpAddr,

    /// Listen on this port; 0 is any free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,

    /// Listen on a Unix socket instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["host", "port"])]
    socket: Option<PathBuf>,

    /// A file of keys, one a line, of which requests must have one
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// Let pages of ORIGIN, a scheme and a host, use the server; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,

    /// Answer to this host name as well; without keys, only localhost and addresses are answered
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,

    #[command(flatten)]
    batch: BatchArguments,

    /// Let at most N more sequences wait; requests beyond are answered by 429
    #[arg(long, value_name = "N", default_value = "64", value_parser = parse_sequences)]
    queue: usize,

    /// Keep the caches of ended texts in at most SIZE of the memory, so that prompts that begin alike are read
    /// once; 0 keeps none [default: a quarter of --memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    prefix_cache: Option<u64>,

    /// Generate at most N tokens for an answer
    #[arg(long, value_name = "N", default_value_t = 4096)]
    max_tokens: u32,

    /// Generate for at most SECONDS for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    max_seconds: u32,

    /// Accept at most N connections
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    connections: u32,

    /// Let answers go on for SECONDS after a request to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u32,

    #[command(flatten)]
    speculate: SpeculateArgument,

    #[command(flatten)]
    cache: CacheArguments,
}

/// What all requests share.
struct Server {
    model: Arc<Model>,
    tokenizer: Option<Arc<Tokenizer>>,
    name: String,
    created: u64,
    constraints: Constraints,
    /// The turn to compile a constraint; closed when answers are cut.
    compiling: Arc<Semaphore>,
    engine: Engine,
    limits: Limits,
    guard: Guard,
    metrics: Arc<Metrics>,
    connections: Arc<Semaphore>,
    connection_limit: u32,
    draining: watch::Sender<bool>,
    routes: axum::Router,
}

/// Tokens of an answer if the request says nothing: as `run`.
const DEFAULT_TOKENS: usize = 256;

/// How long the last events of texts that were cut may take.
const LAST: Duration = Duration::from_secs(3);

/// What a constraint may take for a token while others wait.
const STEP: Duration = Duration::from_millis(20);

/// Runs the verb.
///
/// # Errors
/// If the model or an option is refused, or the address cannot be listened on.
pub fn run(mut arguments: Arguments) -> Result<()> {
    let inherited = listen::inherited()?;
    let guard = guard(&mut arguments, &inherited)?;
    let model = arguments.model.open()?;
    let tokenizer = model.tokenizer_json().map(Tokenizer::from_json).transpose()?.map(Arc::new);
    let session = arguments.cache.options(SessionOptions::default());
    let cache = session.clone();
    let mut options = arguments.batch.options(session, &arguments.speculate);
    let quarter = || options.memory.map_or(256 << 20, |bytes| bytes / 4);
    options.prefix_cache = arguments.prefix_cache.unwrap_or_else(quarter);
    let runtime = arguments.model.runtime(&model)?;
    let mut batch = runtime.batch(tokenizer.clone(), options)?;
    check_memory(&mut batch)?;

    let metrics = Arc::new(Metrics::default());
    metrics.memory.set(batch.memory());
    let (stop, mut stopped) = mpsc::unbounded_channel();
    let ended = stop.clone();
    let limit = arguments.batch.sequences.saturating_add(arguments.queue);
    let engine = Engine::start(batch, limit, Arc::clone(&metrics), move || {
        let _ = ended.send(None);
    })?;
    let mut asked = false;
    // Where no handler can be installed, signals keep their usual meaning.
    let _ = signals::listen(move |signal| {
        if std::mem::replace(&mut asked, true) {
            signals::die(signal);
        }
        let _ = stop.send(Some(signal));
    });
    let (draining, drains) = watch::channel(false);
    let server = Arc::new(Server {
        tokenizer,
        name: arguments.name.unwrap_or_else(|| arguments.model.name()),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        constraints: Constraints::with_step_limit(&model, STEP),
        compiling: Arc::new(Semaphore::new(1)),
        engine,
        limits: Limits {
            max_tokens: arguments.max_tokens as usize,
            default_tokens: DEFAULT_TOKENS,
            time: Duration::from_secs(arguments.max_seconds.into()),
            texts: limit,
            session: cache,
        },
        guard,
        metrics,
        connections: Arc::new(Semaphore::new(arguments.connections as usize)),
        connection_limit: arguments.connections,
        draining,
        routes: routes::router(),
        model,
    });

    let system = |error: std::io::Error| Error::io_text(&error);
    let http = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    let result = http.block_on(async {
        let (listeners, addresses) = match arguments.socket {
            _ if !inherited.is_empty() => listen::adopt(inherited)?,
            Some(path) => listen::unix(&path)?,
            None => listen::tcp(arguments.host, arguments.port).await?,
        };
        for listener in listeners {
            tokio::spawn(Listener::serve(listener, Arc::clone(&server), drains.clone()));
        }
        for address in addresses {
            output::print(&format!("{address}\n"))?;
        }
        if stopped.recv().await.flatten().is_none() {
            return Err(Error::new(ErrorKind::Internal, "the engine has ended; please report this defect"));
        }
        server.end(Duration::from_secs(arguments.grace.into())).await;
        Ok(())
    });
    // What is compiled or tokenized now has nobody left to wait for it.
    http.shutdown_background();
    result
}

/// The guard of requests; an error if others can reach the server and there are no keys.
fn guard(arguments: &mut Arguments, inherited: &listen::Inherited) -> Result<Guard> {
    let [origins, hosts] = [&mut arguments.allow_origin, &mut arguments.allow_host].map(std::mem::take);
    let guard = Guard::new(arguments.api_key_file.as_deref(), origins, hosts)?;
    let open = if inherited.is_empty() {
        (arguments.socket.is_none() && !arguments.host.is_loopback()).then_some(arguments.host)
    } else {
        listen::open_address(inherited)?
    };
    match open {
        Some(host) if !guard.has_keys() => {
            let found = format!("{host}, which others can reach");
            Err(Error::argument(format!("host: found {found}, expected --api-key-file with it")))
        }
        _ => Ok(guard),
    }
}

/// An error if the shortest text finds no memory, because then no text ever will.
fn check_memory(batch: &mut Batch) -> Result<()> {
    let mut shortest = Request { prompt: vec![0], ..Default::default() };
    shortest.generate.max_tokens = 1;
    shortest.interrupt.trigger();
    batch.submit(shortest)?;
    batch.advance(|_, _| {})
}

impl Server {
    /// Lets answers end within `grace`, then cuts them.
    async fn end(&self, grace: Duration) {
        self.draining.send_replace(true);
        if !connection::ended(self, grace).await {
            self.compiling.close();
            self.engine.cut();
            connection::ended(self, LAST).await;
        }
    }
}
