//! Paths to answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path};
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use cinderblock::{End, Event, Token};
use hyper::body::Incoming;
use serde_json::{Value as Json, json};
use tokio::sync::OwnedSemaphorePermit;
use tower_service::Service;

use super::answer::{Answer, Head, cut};
use super::engine::{Texts, Update};
use super::generation::{self, Interface, Plan};
use super::parameters::{DETOKENIZE, SCORE, Shape, TOKENIZE};
use super::problem::{Problem, json_response, quoted};
use super::{Server, openapi, page};
use crate::memory;
use crate::prompt::{Prompt, continuations, ids};
use crate::scoring::{Score, scoring, tokens_of};

/// Bytes of a request's body.
const BODY_BYTES: usize = 8 << 20;
/// Time for a request's body.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Continuations of one request.
const CONTINUATIONS: usize = 64;

type Shared = Extension<Arc<Server>>;
type Answered = Result<Response<Body>, Problem>;

/// The paths.
pub fn router() -> Router {
    Router::new()
        .route("/", get(page::html))
        .route("/page.js", get(page::script))
        .route("/page.css", get(page::style))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chats))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/score", post(score))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
}

impl Server {
    /// Answers a request.
    pub async fn answer(self: Arc<Self>, mut request: Request<Incoming>, is_tcp: bool) -> Response<Body> {
        self.metrics.requests.add(1);
        let origin = request.headers().get(header::ORIGIN).cloned();
        let origin =
            origin.filter(|origin| origin.to_str().is_ok_and(|origin| self.guard.allows_origin(origin)));
        let preflight = request.method() == Method::OPTIONS && origin.is_some();
        let checked = if preflight {
            Ok(())
        } else {
            self.guard.check(request.uri().path(), request.headers(), is_tcp)
        };
        let mut response = match checked {
            Err(problem) => problem.into_response(),
            Ok(()) if preflight => StatusCode::NO_CONTENT.into_response(),
            Ok(()) => {
                request.extensions_mut().insert(Arc::clone(&self));
                let mut routes = self.routes.clone();
                match routes.call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
        };
        if response.status().is_client_error() || response.status().is_server_error() {
            self.metrics.errors.add(1);
        }
        let headers = response.headers_mut();
        let mut set =
            |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        if let Some(origin) = origin {
            set(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST");
            set(header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type");
            set(header::VARY, "origin");
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        response
    }

    /// Lets a plan's texts join.
    fn start(&self, requests: Vec<cinderblock::Request>) -> Result<Texts, Problem> {
        if *self.draining.borrow() {
            return Err(cut());
        }
        let count = requests.len();
        self.engine.submit(requests).ok_or_else(|| self.no_place(count))
    }

    fn no_place(&self, count: usize) -> Problem {
        let limit = self.engine.limit();
        let message = format!(
            "queue: found no place for {count} more, expected fewer than {limit} at a time; try again later"
        );
        Problem::new(StatusCode::TOO_MANY_REQUESTS, message)
    }

    /// The turn of a request whose constraint is to be compiled, and its place in the queue until then.
    async fn turn(&self) -> Result<[OwnedSemaphorePermit; 2], Problem> {
        if *self.draining.borrow() {
            return Err(cut());
        }
        let place = self.engine.place().ok_or_else(|| self.no_place(1))?;
        let turn = Arc::clone(&self.compiling).acquire_owned().await.map_err(|_| cut())?;
        Ok([place, turn])
    }

    /// The tokens that requests force, with their log-probabilities.
    async fn scored(&self, mut requests: Vec<cinderblock::Request>) -> Result<Vec<Vec<Token>>, Problem> {
        for request in &mut requests {
            request.generate.time_limit = Some(self.limits.time);
        }
        let mut tokens = vec![Vec::new(); requests.len()];
        let mut left = requests.len();
        let mut texts = self.start(requests)?;
        while left > 0 {
            let Some(Update { index, event }) = texts.updates.recv().await else {
                return Err(cut());
            };
            match event {
                Event::Step(step) => tokens[index].extend(step.token),
                Event::Ended(End::Caller, _) => return Err(cut()),
                Event::Ended(End::Time, _) => {
                    let seconds = self.limits.time.as_secs();
                    let message =
                        format!("the text was not scored within {seconds} seconds, expected a shorter one");
                    return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, message));
                }
                Event::Ended(..) => left -= 1,
                Event::Failed(error) => return Err(error.into()),
            }
        }
        Ok(tokens)
    }
}

/// The body of a request, which must be JSON.
async fn body(request: Request<Body>) -> Result<Vec<u8>, Problem> {
    let kind =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // A page elsewhere cannot send this without being asked about first.
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        let message = format!("content-type: found {}, expected application/json", quoted(kind));
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("body: found more than {BODY_BYTES} bytes, expected fewer"),
        )
    };
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY_BYTES as u64) {
        return Err(large());
    }
    match tokio::time::timeout(BODY_TIME, to_bytes(request.into_body(), BODY_BYTES)).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(error)) if error.to_string().contains("limit") => Err(large()),
        Ok(Err(_)) => {
            Err(Problem::bad("body: found an end before its end, expected as many bytes as announced"))
        }
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("body: found no end within {} seconds, expected one", BODY_TIME.as_secs()),
        )),
    }
}

/// Calls what may take long, such as the tokenizer, beside the thread that serves all.
async fn aside<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let defect =
        || Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a defect in this program, please report it");
    // Where no thread can be started, it panics here.
    let started =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tokio::task::spawn_blocking(call)));
    let Ok(task) = started else {
        let message = "threads: found no room for one more, expected some; try again later";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, message));
    };
    task.await.unwrap_or_else(|_| Err(defect()))
}

async fn completions(Extension(server): Shared, request: Request<Body>) -> Answered {
    generate(server, Interface::Completion, request).await
}

async fn chats(Extension(server): Shared, request: Request<Body>) -> Answered {
    generate(server, Interface::Chat, request).await
}

async fn generate(server: Arc<Server>, interface: Interface, request: Request<Body>) -> Answered {
    let bytes = body(request).await?;
    // One that writes the name with escapes waits for its turn all the same, on a thread.
    let name = b"response_format";
    let restricted = bytes.windows(name.len()).any(|part| part == name);
    let turn = if restricted { Some(server.turn().await?) } else { None };
    let reader = Arc::clone(&server);
    let mut plan: Plan = aside(move || {
        // Kept until it is done, even if the client leaves.
        let _turn = turn;
        let model = (&*reader.model, &*reader.name);
        generation::read(
            interface,
            &bytes,
            model,
            reader.tokenizer.as_deref(),
            &reader.constraints,
            &reader.limits,
        )
    })
    .await?;
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let prefix = if interface == Interface::Chat { "chatcmpl" } else { "cmpl" };
    let head = Head {
        id: format!("{prefix}-{:x}-{}", server.created, NUMBER.fetch_add(1, Ordering::Relaxed)),
        created: server.created,
        model: server.name.clone(),
        tokenizer: server.tokenizer.clone(),
    };
    let (scoring, repeating): (Vec<_>, Vec<_>) = std::mem::take(&mut plan.scoring).into_iter().unzip();
    if !scoring.is_empty() {
        for (tokens, answers) in server.scored(scoring).await?.into_iter().zip(repeating) {
            let mut echo = (*plan.echo[answers.start]).clone();
            echo.take(tokens);
            plan.echo[answers].fill(Arc::new(echo));
        }
    }
    let answer = Answer::new(head, &mut plan, server.model.config().block_length);
    let texts = server.start(std::mem::take(&mut plan.requests))?;
    if plan.stream { Ok(answer.stream(texts, plan.include_usage)) } else { answer.collect(texts).await }
}

fn described(server: &Server) -> Json {
    let config = server.model.config();
    json!({
        "id": server.name,
        "object": "model",
        "created": server.created,
        "owned_by": "cinderblock",
        "block_length": config.block_length,
        "vocabulary": config.vocabulary,
        "file_bytes": server.model.file_bytes(),
        "max_tokens": server.limits.max_tokens,
    })
}

async fn models(Extension(server): Shared) -> Response<Body> {
    json_response(StatusCode::OK, &json!({"object": "list", "data": [described(&server)]}))
}

async fn model(Extension(server): Shared, name: Result<Path<String>, PathRejection>) -> Answered {
    let Ok(Path(name)) = name else {
        return Err(Problem::bad("model: found a name that is not UTF-8, expected UTF-8"));
    };
    if name != server.name {
        let message = format!("model: found {}, expected {:?}", quoted(&name), server.name);
        return Err(Problem::new(StatusCode::NOT_FOUND, message));
    }
    Ok(json_response(StatusCode::OK, &described(&server)))
}

async fn read(shape: &'static Shape, request: Request<Body>) -> Result<super::parameters::Fields, Problem> {
    shape.read(&body(request).await?)
}

fn no_tokenizer() -> Problem {
    Problem::bad("the model carries no tokenizer, expected token ids alone")
}

async fn tokenize(Extension(server): Shared, request: Request<Body>) -> Answered {
    let text = read(&TOKENIZE, request).await?.text("text").unwrap_or_default();
    aside(move || {
        let tokenizer = server.tokenizer.as_ref().ok_or_else(no_tokenizer)?;
        let tokens = if text.is_empty() { Vec::new() } else { tokenizer.encode(&text)? };
        let pieces = tokens.iter().map(|token| tokenizer.decode(&[*token])).collect::<Result<Vec<_>, _>>()?;
        Ok(json_response(StatusCode::OK, &json!({"tokens": tokens, "pieces": pieces, "count": tokens.len()})))
    })
    .await
}

async fn detokenize(Extension(server): Shared, request: Request<Body>) -> Answered {
    let tokens =
        read(&DETOKENIZE, request).await?.read("tokens", "a list of token ids", ids)?.unwrap_or_default();
    aside(move || {
        let tokenizer = server.tokenizer.as_ref().ok_or_else(no_tokenizer)?;
        server.model.check_tokens(&tokens)?;
        Ok(json_response(StatusCode::OK, &json!({"text": tokenizer.decode(&tokens)?})))
    })
    .await
}

/// Log-likelihoods of continuations, with the rules of `batch --score`.
async fn score(Extension(server): Shared, request: Request<Body>) -> Answered {
    let mut fields = read(&SCORE, request).await?;
    let text = fields.text("prompt").map(Prompt::Text);
    let ids = fields.read("tokens", "a list of token ids", ids)?.map(Prompt::Ids);
    let prompt = match (text, ids) {
        (Some(prompt), None) | (None, Some(prompt)) => prompt,
        (found, _) => {
            let found = if found.is_some() { "both" } else { "none" };
            return Err(Problem::bad(format!(
                "\"prompt\" or \"tokens\": found {found}, expected one of them"
            ))
            .about("prompt"));
        }
    };
    let expected = "a list of texts or of lists of token ids";
    let list = fields.read("continuations", expected, continuations)?.unwrap_or_default();
    let most = CONTINUATIONS.min(server.engine.limit());
    if list.is_empty() || list.len() > most {
        let message = format!("\"continuations\": found {}, expected 1 to {most}", list.len());
        return Err(Problem::bad(message).about("continuations"));
    }
    let reader = Arc::clone(&server);
    let requests: Vec<cinderblock::Request> = aside(move || {
        let one = |continuation| {
            let (prompt, forced) =
                tokens_of(&prompt, continuation, &reader.model, reader.tokenizer.as_deref())?;
            Ok(cinderblock::Request { prompt, ..scoring(forced) })
        };
        list.iter().map(one).collect()
    })
    .await?;
    let prompts: usize = requests.iter().map(|request| request.prompt.len()).sum();
    let scores = server.scored(requests).await?;
    let scores: Vec<Json> = scores.iter().map(|tokens| Score::new(tokens).json()).collect();
    Ok(json_response(StatusCode::OK, &json!({"prompt_tokens": prompts, "scores": scores})))
}

async fn health() -> Response<Body> {
    json_response(StatusCode::OK, &json!({"status": "ok"}))
}

async fn ready(Extension(server): Shared) -> Response<Body> {
    let (status, word) = match (*server.draining.borrow(), server.engine.has_place()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "queue full"),
        (false, true) => (StatusCode::OK, "ok"),
    };
    json_response(status, &json!({"status": word}))
}

async fn metrics(Extension(server): Shared) -> Response<Body> {
    let mut response = Response::new(Body::from(server.metrics.render(memory::resident())));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn openapi(Extension(server): Shared) -> Response<Body> {
    json_response(StatusCode::OK, &openapi::document(server.guard.has_keys()))
}

async fn not_found(request: Request<Body>) -> Problem {
    let message = format!("path: found {}, expected one of /openapi.json", quoted(request.uri().path()));
    Problem::new(StatusCode::NOT_FOUND, message)
}

async fn wrong_method(request: Request<Body>) -> Problem {
    let message = format!(
        "method: found {}, expected another one for {}",
        request.method(),
        quoted(request.uri().path())
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
